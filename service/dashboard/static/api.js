// Requests to the daemon. Every failure is an ApiError whose message can be shown unchanged.

const TOKEN_KEY = "lars-agent-token"; // in sessionStorage: for this tab only

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status; // 0 without an answer
  }
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

async function call(method, path, body) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const sent = body === undefined ? undefined : JSON.stringify(body);
  let response, answer;
  try {
    response = await fetch(path, { method, headers, body: sent });
    answer = await response.json();
  } catch {
    throw new ApiError(response ? `the daemon answered ${response.status}` : "the daemon does not answer", response?.status ?? 0);
  }
  if (!response.ok) throw new ApiError(answer?.error?.message ?? `the daemon answered ${response.status}`, response.status);
  return answer;
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);
