// How fast llama.cpp reads a prompt and replies: node bench/serve/llamacpp.mjs MODULE MODEL.gguf THREADS PROMPTS TOKENS
//
// PROMPTS is JSON with the token ids of a warm-up and of the prompt. Prints one JSON object: seconds to the first token and
// from that to the last. Greedy, whatever tokens end a reply; the context is as large as it has to be.
import { pathToFileURL } from "node:url";

const [module, model, threads, prompts, count] = process.argv.slice(2);
const { getLlama } = await import(pathToFileURL(module).href);
const { warmUp, prompt } = JSON.parse(prompts);
const llama = await getLlama({ gpu: false, build: "never", maxThreads: Number(threads), logLevel: "error" });
const loaded = await llama.loadModel({ modelPath: model });
const context = await loaded.createContext({
    contextSize: prompt.length + Number(count) + 16,
    batchSize: 512,
    threads: { ideal: Number(threads), min: Number(threads) },
    flashAttention: process.env.LLAMACPP_FLASH === "1",
});

async function reply(tokens, wanted) {
    const sequence = context.getSequence();
    const times = [performance.now()];
    for await (const token of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
        times.push(performance.now());
        if (times.length > wanted) break;
    }
    sequence.dispose();
    return { prompt_s: (times[1] - times[0]) / 1000, reply_s: (times[wanted] - times[1]) / 1000, tokens: wanted };
}

await reply(warmUp, 8);
const figures = await reply(prompt, Number(count));
console.log(JSON.stringify({ ...figures, threads: context.currentThreads, system: llama.systemInfo }));
process.exit(0);
