"""Chat templates composed of constructs of real ones, each with its own account of what it writes and what is trained.

A `Recipe` names one option for each dimension of a template. `compose` turns it into jinja and, beside it, into Python
functions that write the same text from the messages as pieces of (text, made). `made` is true for what the model must
generate. The pieces come from how the template was composed; nothing is read back from jinja or from the library.

What the model must generate, in each composition:

- Headers are not made, however the history's header and the generation prompt differ (white space in front, a line
  more in the prompt). What the prompt does not supply and the history holds between header and content is made
  (`ASSISTANT:` in the prompt, `ASSISTANT: ` in the history: the space). Text that ends header and prompt alike
  (`</think>` of a prompt that ends in `<think></think>`) is header.
- What the prompt supplies behind the header (an opened thought, first words) is not made where the history holds all
  of it at that place, even if it stands in the content, or its last line break in what closes or follows the answer:
  the model goes on behind the prompt. A part of it supplies nothing: then all is made. Of a prompt that ends in a
  tag, white space behind the tag may be missing.
- Contents, thoughts and calls of the assistant are made as the template writes them, with the channel headers between
  the thought and the answer of one message: the model generates those in one go.
- All closing tokens of the turn are made, up to the last one and with the white space between content and them. White
  space behind the last one is not. A closer that is written only when a message follows, or by the next message, is
  made where it is written. Separators of white space between messages are not made, unless the closer comes behind.
- Without a closer the turn ends where the message's text ends.
- A closer without a control token is made as a whole: there is no stop token that white space could stand behind.
  Where no last answer shows how it is closed (it is not closed, or a prompt follows always), the white space behind
  the closer, or behind a text that has none, may be made or not: the next message, or the prompt, could as well write
  it, and the texts would be the same.
- Messages of the assistant that the template joins to one turn are made with what joins them.
- Tool results, and the tags around them, are not made; behind a result inside the model's turn the model goes on
  without a header.
- A generation prompt that the template writes without request is not made.
"""
