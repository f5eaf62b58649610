// Who we are, and requests in that name. The name is kept by the tab, the token in memory only.

const KEY = "alphavel-demo-name";

export class Session {
  #token = null;

  constructor(person, token) {
    this.person = person;
    this.#token = token;
  }

  static get rememberedName() {
    return sessionStorage.getItem(KEY);
  }

  static async signIn(name) {
    const { token, person } = await request("/sign-in", { body: { name } });
    sessionStorage.setItem(KEY, person.name);
    return new Session(person, token);
  }

  signOut() {
    sessionStorage.removeItem(KEY);
  }

  /** For the client: the token of the sign-in once, then a fresh one each time. */
  tokens() {
    let first = this.#token;
    return async () => {
      if (first) {
        const token = first;
        first = null;
        return token;
      }
      return this.#renew();
    };
  }

  async #renew() {
    const { token } = await request("/sign-in", { body: { name: this.person.name } });
    this.#token = token;
    return token;
  }

  past() {
    return request("/past", { token: this.#token });
  }

  sendNote(to, text) {
    return request("/notes", { token: this.#token, body: { to, text } });
  }
}

async function request(path, { token, body }) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server cannot be reached. Try again in a moment.");
  }
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(data.error ?? `The server answered ${answer.status}.`);
  return data;
}
