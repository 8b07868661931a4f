// Answers lines of JSON with lines of JSON: chats rendered by @huggingface/jinja, texts encoded by
// @huggingface/tokenizers, or by llama.cpp in node-llama-cpp, which also generates. The packages are those of the folder
// that is the first argument.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const require = createRequire(join(folder, "index.js"));
const RealDate = Date;
let noon = null; // of the day that clocks show; null for today

globalThis.Date = class extends RealDate {
    constructor(...given) {
        super(...(given.length || noon === null ? given : [noon]));
    }
    static now() {
        return noon ?? RealDate.now();
    }
};

const templates = new Map();
let tokenizer = null;
let vocabulary = null;

async function startLlama() {
    const main = join(folder, "node_modules", "node-llama-cpp", "dist", "index.js");
    const { getLlama, LlamaLogLevel } = await import(pathToFileURL(main).href);
    const settings = { build: "never", gpu: false, skipDownload: true, logLevel: LlamaLogLevel.disabled };
    return getLlama(settings);
}

const answers = {
    versions: ({ names }) =>
        Object.fromEntries(
            names.map((name) => {
                const manifest = readFileSync(join(folder, "node_modules", name, "package.json"), "utf8");
                return [name, JSON.parse(manifest).version];
            }),
        ),
    render: ({ key, source, context, day }) => {
        if (source !== undefined) {
            const { Template } = require("@huggingface/jinja");
            templates.set(key, new Template(source));
        }
        noon = day === null ? null : new RealDate(day[0], day[1] - 1, day[2], 12).getTime();
        return templates.get(key).render(context);
    },
    open: ({ file, config }) => {
        const { Tokenizer } = require("@huggingface/tokenizers");
        tokenizer = new Tokenizer(JSON.parse(readFileSync(file, "utf8")), config);
        return null;
    },
    encode: ({ texts }) => texts.map((text) => tokenizer.encode(text, { add_special_tokens: false }).ids),
    openGguf: async ({ file }) => {
        const llama = await startLlama();
        vocabulary = await llama.loadModel({ modelPath: file, vocabOnly: true });
        const tokens = vocabulary.fileInfo.metadata.tokenizer.ggml.tokens.length;
        const ends = Array.from({ length: tokens }, (_, id) => id).filter((id) => vocabulary.isEogToken(id));
        return { bos: vocabulary.tokens.shouldPrependBosToken ? vocabulary.tokens.bos : null, ends };
    },
    encodeGguf: ({ texts }) => texts.map((text) => vocabulary.tokenize(text, true)),
    generateGguf: async ({ file, texts, tokens, context }) => {
        // Threads of so small a model wait for each other most of the time.
        const model = await (await startLlama()).loadModel({ modelPath: file });
        const sequence = (await model.createContext({ contextSize: context, threads: 1 })).getSequence();
        const answers = [];
        for (const text of texts) {
            await sequence.clearHistory();
            const ids = [];
            const greedy = { temperature: 0, yieldEogToken: true };
            for await (const id of sequence.evaluate(model.tokenize(text, true), greedy)) {
                ids.push(id);
                if (model.isEogToken(id) || ids.length === tokens) {
                    break;
                }
            }
            answers.push({ ids, ended: model.isEogToken(ids.at(-1)) });
        }
        return answers;
    },
};

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    let answer;
    try {
        const request = JSON.parse(line);
        answer = { value: await answers[request.ask](request) };
    } catch (error) {
        answer = { error: `${error?.name ?? "Error"}: ${error?.message ?? error}` };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
