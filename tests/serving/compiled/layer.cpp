// llama-server's chat layer as a filter: a line of JSON with a template and a request gives a line with the prompt.
#include "chat.h"
#include "common.h"
#include "json.h"
#include "log.h"

#include <iostream>
#include <nlohmann/json.hpp>

using ordered = nlohmann::ordered_json;

int main() {
    common_log_set_verbosity_thold(-1);
    std::string line;
    std::string last;
    common_chat_templates_ptr templates;
    while (std::getline(std::cin, line)) {
        ordered out;
        try {
            const auto in = ordered::parse(line);
            const std::string source = in["source"], bos = in["bos"], eos = in["eos"];
            if (source != last || !templates) {
                last = "";
                templates = common_chat_templates_init(nullptr, source, bos, eos);
                last = source;
            }
            common_chat_templates_inputs inputs;
            inputs.messages = common_chat_msgs_parse_oaicompat(common_json::parse(in["messages"].dump()));
            if (!in["tools"].is_null()) {
                inputs.tools = common_chat_tools_parse_oaicompat(common_json::parse(in["tools"].dump()));
            }
            inputs.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
            out["prompt"] = common_chat_templates_apply(templates.get(), inputs).prompt;
        } catch (const std::exception & error) {
            out["error"] = error.what();
        }
        std::cout << out.dump(-1, ' ', true, ordered::error_handler_t::replace) << std::endl;
    }
}
