// What each client's own package says to the daemon and gets: `node node_clients.mjs URL` writes it as JSON, by name.
const [url] = process.argv.slice(2);
const question = "Name the capital of France."; // whose answer does not hang on rounding
const asked = [{ role: "user", content: question }];
const model = "default";
const schema = { type: "object", properties: { name: { type: "string", maxLength: 20 } }, required: ["name"], additionalProperties: false };

const clients = {
  async openai() {
    const { default: OpenAI } = await import("openai");
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
    const common = { model, messages: asked, temperature: 0 };
    const whole = await client.chat.completions.create({ ...common, max_tokens: 12 });
    let stream = "";
    for await (const piece of await client.chat.completions.create({ ...common, max_tokens: 12, stream: true }))
      stream += piece.choices[0]?.delta?.content ?? "";
    const shaped = await client.chat.completions.create({
      ...common, max_tokens: 60, response_format: { type: "json_schema", json_schema: { name: "City", schema } },
    });
    return { chat: whole.choices[0].message.content, streaming: stream, "structured output": shaped.choices[0].message.content };
  },
  async ollama() {
    const { Ollama } = await import("ollama");
    const client = new Ollama({ host: url });
    const options = { temperature: 0, num_predict: 12 };
    const whole = await client.chat({ model, messages: asked, options });
    let stream = "";
    for await (const piece of await client.chat({ model, messages: asked, options, stream: true }))
      stream += piece.message.content;
    const shaped = await client.chat({ model, messages: asked, options: { ...options, num_predict: 60 }, format: schema });
    return { chat: whole.message.content, streaming: stream, "structured output": shaped.message.content };
  },
  async ai_sdk() {
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    const { generateText, streamText, generateObject, tool } = await import("ai");
    const { z } = await import("zod");
    const provider = createOpenAICompatible({ name: "lars", baseURL: `${url}/v1`, supportsStructuredOutputs: true });
    const common = { model: provider(model), prompt: question, temperature: 0, maxRetries: 0 };
    let stream = "";
    for await (const piece of streamText({ ...common, maxOutputTokens: 12 }).textStream) stream += piece;
    const city = z.object({ name: z.string().max(20) });
    const called = await generateText({
      ...common, maxOutputTokens: 60, toolChoice: "required",
      tools: { find_city: tool({ description: "Find a city.", inputSchema: city }) },
    });
    const shaped = await generateObject({ ...common, maxOutputTokens: 60, schema: city });
    return {
      chat: (await generateText({ ...common, maxOutputTokens: 12 })).text,
      streaming: stream,
      tools: called.toolCalls[0].toolName,
      "structured output": JSON.stringify(shaped.object),
    };
  },
};

const found = {};
for (const [name, client] of Object.entries(clients))
  found[`${name}_node`] = await client().catch((error) => ({ error: error.stack }));
console.log(JSON.stringify(found));
