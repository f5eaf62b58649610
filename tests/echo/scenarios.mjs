// What a page does with Laravel Echo and pusher-js, the same in a browser and in Node.js. Each scenario says what happens,
// and ends with the state its client is in.

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export async function run(name, { Pusher, Echo, recover, key = "app-key", url, say }) {
  const { hostname, port } = new URL(url);
  const clients = [];
  const failures = [];

  const pusher = (user, options = {}) => {
    const headers = user ? { "X-User": user } : {};
    const client = new Pusher(key, {
      cluster: "",
      wsHost: hostname,
      wsPort: port,
      forceTLS: false,
      enabledTransports: ["ws"],
      channelAuthorization: { endpoint: `${url}/broadcasting/auth`, headers },
      userAuthentication: { endpoint: `${url}/broadcasting/user-auth`, headers },
      ...options,
    });
    clients.push(client);
    client.connection.bind("error", (error) => failures.push(error?.data?.code ?? error?.error?.data?.code ?? "other"));
    return client;
  };
  const echo = (user, options) => new Echo({ broadcaster: "pusher", client: pusher(user, options) });
  const post = (path, body, headers = {}) =>
    fetch(url + path, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify(body),
    }).then((response) => response.json());
  const push = (channel, event, data, headers) => post("/push", { channel, event, data }, headers);
  const once = (target, event) => new Promise((resolve) => target.bind(event, resolve));
  const state = (client, wanted) =>
    new Promise((resolve) => {
      const look = () => client.connection.state === wanted && resolve();
      client.connection.bind("state_change", look);
      look();
    });
  const subscribed = (channel) => new Promise((resolve, reject) => channel.subscribed(resolve).error(reject));
  const until = async (condition) => {
    while (!condition()) await wait(10);
  };
  const tools = { Pusher, recover, pusher, echo, post, push, once, state, subscribed, until, wait, say, failures };

  try {
    await scenarios[name](tools);
  } finally {
    say({ states: clients.map((client) => client.connection.state), errors: [...new Set(failures)] });
    for (const client of clients) client.disconnect();
    say("end");
  }
}

const scenarios = {
  async public({ echo, push, subscribed, until, say }) {
    const heard = [];
    const channel = echo().channel("orders");
    channel.listen("OrderShipped", (data) => heard.push(["App\\Events\\OrderShipped", data]));
    channel.listen(".order.shipped", (data) => heard.push(["order.shipped", data]));
    await subscribed(channel);
    await push("orders", "App\\Events\\OrderShipped", { id: 1 });
    await push("orders", "order.shipped", { id: 2 });
    await until(() => heard.length === 2);
    say(heard);
  },

  async private({ echo, push, subscribed, until, say }) {
    const heard = [];
    const client = echo("ann");
    const channel = client.private("orders.ann").listen(".shipped", (data) => heard.push(data));
    await subscribed(channel);
    await push("private-orders.ann", "shipped", { to: "others" }, { "X-Socket-ID": client.socketId() });
    await push("private-orders.ann", "shipped", { to: "all" });
    await until(() => heard.length === 1);
    client.leave("orders.ann");
    say(heard);
    while ((await push("private-orders.ann", "shipped", {})).pushed > 0);
    say("left");
  },

  async presence({ echo, until, say }) {
    const seen = [];
    const join = (user) =>
      new Promise((resolve) => {
        const client = echo(user);
        client
          .join("room")
          .here((members) => resolve([client, members]))
          .joining((member) => seen.push([user, "joining", member]))
          .leaving((member) => seen.push([user, "leaving", member]));
      });
    const [, alone] = await join("ann");
    const [bob, both] = await join("bob");
    await until(() => seen.length === 1);
    bob.leave("room");
    await until(() => seen.length === 2);
    say(alone);
    say(both);
    say(seen);
  },

  async whisper({ echo, subscribed, until, say }) {
    const heard = [];
    const [ann, bob] = [echo("ann"), echo("bob")];
    const rooms = [ann.join("room"), bob.join("room")];
    await Promise.all(rooms.map(subscribed));
    rooms[0].listenForWhisper("typing", (data, metadata) => heard.push(["ann", data, metadata]));
    rooms[1].listenForWhisper("typing", (data, metadata) => heard.push(["bob", data, metadata]));
    rooms[0].whisper("typing", { name: "Ann" });
    await until(() => heard.length === 1);
    say(heard);
  },

  async flood({ echo, subscribed, until, say, failures }) {
    const room = echo("ann").private("room");
    await subscribed(room);
    for (let number = 0; number < 30; number += 1) room.whisper("typing", { number });
    await until(() => failures.length > 0);
    say("told");
  },

  async encrypted({ echo, post, subscribed, until, say }) {
    const heard = [];
    const channel = echo("ann").encryptedPrivate("orders.ann").listen(".shipped", (data) => heard.push(data));
    await subscribed(channel);
    await post("/push-encrypted", { channel: "private-encrypted-orders.ann", event: "shipped", data: { id: 7 } });
    await until(() => heard.length === 1);
    say(heard);
  },

  async cache({ pusher, push, once, say }) {
    const name = `cache-${Date.now()}-${Math.floor(Math.random() * 1e6)}`;
    const client = pusher();
    const missed = once(client.subscribe(name), "pusher:cache_miss");
    await missed;
    say("miss");
    await push(name, "price", { euro: 5 });
    say(await once(pusher().subscribe(name), "price"));
  },

  async count({ pusher, once, say }) {
    const channel = pusher().subscribe("crowd");
    say(await once(channel, "pusher:subscription_count"));
    const counted = once(channel, "pusher:subscription_count");
    pusher().subscribe("crowd");
    say(await counted);
    say(channel.subscriptionCount);
  },

  async signin({ pusher, post, once, state, until, say }) {
    const ann = pusher("ann");
    const seen = [];
    for (const name of ["online", "offline"]) ann.user.watchlist.bind(name, (event) => seen.push([name, event.user_ids]));
    ann.signin();
    const hello = once(ann.user, "hello");
    await until(() => ann.user.user_data !== null && seen.length === 1);
    const bob = pusher("bob");
    bob.signin();
    await until(() => seen.length === 2);
    bob.disconnect();
    await until(() => seen.length === 3);
    await post("/push", { user: "ann", event: "hello", data: { from: "server" } });
    say([ann.user.user_data, seen, await hello]);
    // A presence channel takes who is signed in from there.
    const room = ann.subscribe("presence-room");
    const members = await once(room, "pusher:subscription_succeeded");
    say([members.count, members.me]);
    await post("/terminate/ann", {});
    await state(ann, "disconnected");
  },

  async unauthorized({ echo, say }) {
    const refused = (channel) => new Promise((resolve) => channel.error(({ type, status }) => resolve([type, status])));
    const client = echo("bob");
    say(await refused(client.private("orders.ann")));
    say(await refused(client.private("nobody-knows")));
    say(await refused(echo().private("room"))); // nobody is logged in
  },

  async forged({ echo, pusher, once, say }) {
    const client = echo("ann", { channelAuthorization: { endpoint: "/forge", customHandler: forge } });
    say(await new Promise((resolve) => client.private("room").error((error) => resolve([error.type, error.status]))));
    const mallory = pusher("ann", { userAuthentication: { customHandler: forge } });
    const told = once(mallory.connection, "error");
    mallory.signin();
    await told;
    say(mallory.user.user_data);
  },

  async wrong_key({ pusher, state, wait, say }) {
    const client = pusher();
    const states = [];
    client.connection.bind("state_change", ({ current }) => states.push(current));
    await state(client, "disconnected");
    await wait(1500); // it does not come back
    say(states);
  },

  async over_the_limit({ pusher, echo, state, wait, say }) {
    const [first, second] = [pusher()];
    await state(first, "connected");
    const late = pusher();
    await state(late, "disconnected");
    await wait(1500);
    say(second ?? "refused");
  },

  async full_room({ echo, once, subscribed, say }) {
    const [ann, bob] = [echo("ann").join("room"), echo("bob")];
    await subscribed(ann);
    await subscribed(bob.join("room"));
    const third = echo("cy").join("room");
    say(await new Promise((resolve) => third.error((error) => resolve(error))));
    const left = once(ann.subscription, "pusher:member_removed");
    bob.leave("room");
    await left;
    third.subscription.subscriptionPending = false; // or pusher-js goes on waiting for an answer
    third.subscribe();
    await subscribed(third);
    say("room for another");
  },

  async recover({ recover, echo, pusher, push, subscribed, until, say }) {
    const mine = echo("ann");
    const client = recover(mine.connector.pusher);
    const heard = [];
    const channel = mine.private("kept.ann").listen(".number", ({ number }) => heard.push(number));
    client.channel("private-kept.ann").bind("alphavel:lost", () => say("lost"));
    await subscribed(channel);
    await push("private-kept.ann", "number", { number: 1 });
    await until(() => heard.length === 1);
    client.disconnect();
    for (const number of [2, 3]) await push("private-kept.ann", "number", { number });
    client.connect();
    await until(() => heard.length === 3);
    await push("private-kept.ann", "number", { number: 4 });
    await until(() => heard.length === 4);
    say([...heard]);
    client.disconnect();
    for (let number = 5; number < 25; number += 1) await push("private-kept.ann", "number", { number });
    client.connect();
    await new Promise((resolve) => client.channel("private-kept.ann").bind("alphavel:lost", resolve));
    await push("private-kept.ann", "number", { number: 25 });
    await until(() => heard.length === 5);
    say(heard.at(-1));
    const plain = pusher("ann").subscribe("private-kept.ann"); // one that knows nothing of it
    await new Promise((resolve) => plain.bind("pusher:subscription_succeeded", (data) => resolve(say(data))));
  },
  async reconnect({ echo, push, subscribed, until, say, failures }) {
    const heard = [];
    const client = echo("ann");
    const states = [];
    client.connector.pusher.connection.bind("state_change", ({ current }) => states.push(current));
    const here = [];
    const room = client.join("room").here((members) => here.push(members));
    const orders = client.private("orders.ann").listen(".shipped", (data) => heard.push(data));
    await Promise.all([room, orders].map(subscribed));
    const before = client.socketId();
    say("ready"); // the test stops the server and starts it anew
    await until(() => here.length === 2);
    await until(() => orders.subscription.subscribed);
    await push("private-orders.ann", "shipped", { after: "the restart" });
    await until(() => heard.length === 1);
    say([heard, here, client.socketId() !== before, states.at(-1), states.includes("disconnected")]);
    // 4200: it is restarting; 4100: it still is; and while nobody listens there is no code.
    say(failures.every((code) => [4200, 4100, "other"].includes(code)));
    failures.length = 0;
  },
};

function forge(params, callback) {
  const text = JSON.stringify({ id: "ann" });
  callback(null, { auth: `app-key:${"0".repeat(64)}`, user_data: text });
}
