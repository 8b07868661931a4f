"""SRV001: the template prints a date, and a server prints another one than the training.

The templates of Llama 3.1 and 3.2 and others print a date into the system turn. The training pins one for all rows.
A server gives none: the template prints its default or the day of the request, and llama.cpp passes today. The model
then reads a prompt that no row had. The cure is to pass the date of the training with each request, or to write it
into the saved template.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV001",
    name="date-differs-in-serving",
    severity="warning",
    needs=("folder",),
    doc=__doc__,
    bad="rows: 'Today Date: 26 Jul 2024'; served: 'Today Date: 30 Nov 2026'",
    good="a request with chat_template_kwargs={'date_string': '26 Jul 2024'}, or that date in the saved template",
)
