// Answers one by one: filters, one example whole, a word diff. All text is set as text, never as
// markup; where one is stands in the address, so that a place can be sent to somebody.
const FIELDS = ["example", "arm", "replicate", "score", "text", "length", "label", "failure",
  "message", "finish", "strict", "parts", "latency", "first", "prompt_tokens", "new_tokens",
  "achieved", "kept", "full", "samples", "note"];
const AT_ONCE = 200, LONG = 6000, MOST_STEPS = 4e6;
const byId = (id) => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children.filter((child) => child !== null));
  return element;
};
// What moves a cursor or turns the reading direction is shown as it would be typed.
const visible = (text) => text.replace(/\r\n/g, "\n").replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
  (c) => (c === "\n" || c === "\t" ? c : `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`));
const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);
const bytes = (value) => {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB"];
  let i = 0;
  for (; value >= 1024 && i < 3; i++) value /= 1024;
  return `${value.toFixed(i ? 1 : 0)} ${units[i]}`;
};
const seconds = (value) =>
  value === null || value === undefined ? "–" : value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(2)} s`;

async function unpacked(element) {
  const packed = Uint8Array.from(atob(element.textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// -- words -----------------------------------------------------------------------------------
const wordsOf = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];

// Pieces [sign, text] that lead from one text to the other: "=" both, "-" the first, "+" the second.
function differences(one, other) {
  const a = wordsOf(one), b = wordsOf(other), pieces = [];
  const add = (sign, words) => {
    if (words.length) pieces.push([sign, words.join("")]);
  };
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start
    && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const left = a.slice(start, a.length - end), right = b.slice(start, b.length - end);
  add("=", a.slice(0, start));
  if (left.length * right.length > MOST_STEPS) {
    add("-", left);
    add("+", right);
  } else {
    aligned(left, right, add);
  }
  add("=", a.slice(a.length - end));
  return pieces;
}

function aligned(a, b, add) {
  const wide = b.length + 1, longest = new Uint32Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      longest[i * wide + j] = a[i] === b[j] ? longest[(i + 1) * wide + j + 1] + 1
        : Math.max(longest[(i + 1) * wide + j], longest[i * wide + j + 1]);
  let i = 0, j = 0, sign = "", run = [];
  const put = (next, word) => {
    if (next !== sign) add(sign, run), (run = []), (sign = next);
    run.push(word);
  };
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) put("=", a[i]), i++, j++;
    else if (j >= b.length
      || (i < a.length && longest[(i + 1) * wide + j] >= longest[i * wide + j + 1])) put("-", a[i++]);
    else put("+", b[j++]);
  }
  add(sign, run);
}

// -- the page --------------------------------------------------------------------------------
function browse(data) {
  const answers = data.answers.map((row) =>
    row && Object.fromEntries(FIELDS.map((name, i) => [name, row[i] ?? null])));
  const arms = data.arms.map(([policy, budget, variant, side, again, label]) =>
    ({ policy, budget, variant, side, again, label }));
  const verdicts = new Map(data.verdicts.map((row) => [JSON.stringify(row.slice(0, 5)), row[5]]));
  const pairs = data.pairs.map(([left, right]) => {
    const now = answers[right], was = left === null ? null : answers[left];
    const example = data.examples[now.example], arm = arms[now.arm];
    const scored = was !== null && was.score !== null && now.score !== null;
    const key = [example.task, example.bin, arm.variant, arm.policy, arm.budget];
    return {
      was, now, example, arm, place: now.example,
      change: !scored ? "not paired" : now.score === was.score ? "same" : now.score < was.score ? "lost" : "gained",
      verdict: arm.again ? "" : verdicts.get(JSON.stringify(key)) ?? "",
      task: example.task, bin: String(example.bin), budget: String(arm.budget), variant: arm.variant,
      policy: arm.again ? "control, again" : arm.policy === "none" ? "control" : arm.policy,
      label: now.label || (now.failure ? "" : "none"), failure: now.failure || "none",
    };
  });
  const searched = (pair) => pair.searched ??= [pair.example.id, pair.example.question,
    ...pair.example.answers, pair.was?.text, pair.now.text, pair.now.message].join("\n").toLowerCase();
  const filters = [...byId("filters").querySelectorAll("select")];
  const search = byId("search"), list = byId("pairs").tBodies[0], one = byId("one");
  let shown = [], limit = AT_ONCE, wanted = new URLSearchParams(), before = "";

  const numeric = (a, b) => a.localeCompare(b, "en", { numeric: true });
  for (const select of filters) {
    const values = [...new Set(pairs.map((pair) => pair[select.name]))].filter(Boolean).sort(numeric);
    select.append(...values.map((value) => make("option", { value, textContent: visible(value) })));
    select.parentElement.hidden = values.length < 2;
  }
  const addressOf = (params) => `#answers?${params}`;
  const go = (changes) => {
    const params = new URLSearchParams(wanted);
    for (const [name, value] of Object.entries(changes))
      value ? params.set(name, value) : params.delete(name);
    location.replace(addressOf(params));
  };
  const linkTo = (pair) => {
    const params = new URLSearchParams(wanted);
    params.set("example", pair.example.id);
    params.set("at", nameOf(pair));
    return addressOf(params);
  };
  // The task, the arm and the trial: with the example they name one pair, in any later page too.
  const nameOf = (pair) => [pair.task, pair.policy, pair.budget, pair.variant, pair.now.replicate].join("|");

  function filter() {
    const text = (wanted.get("q") ?? "").toLowerCase();
    shown = pairs.filter((pair) =>
      filters.every(({ name }) => !wanted.has(name) || pair[name] === wanted.get(name))
      && (!text || searched(pair).includes(text)));
    limit = AT_ONCE;
  }

  function row(pair) {
    const { now, was } = pair;
    const reply = now.failure ? `${now.failure}: ${now.message}` : now.text ?? "";
    const cell = (text, className = "") => make("td", { textContent: visible(text), className });
    const line = make("tr", { className: pair.change.replace(" ", "-") },
      make("td", {}, make("a", { href: linkTo(pair), textContent: visible(pair.example.id.slice(-12)) })),
      cell(pair.task, "minor"), cell(pair.bin, "number minor"), cell(arms[now.arm].label, "arm"),
      cell(number(was?.score ?? null), "number"), cell(number(now.score), "number now"),
      cell(pair.change, `change ${pair.change.replace(" ", "-")}`),
      cell([now.label, now.failure].filter(Boolean).join(" "), "minor"),
      cell(pair.verdict, `minor ${pair.verdict}`),
      cell(reply.slice(0, 160).replace(/\s+/g, " "), "reply"));
    line.dataset.at = nameOf(pair);
    line.dataset.example = pair.example.id;
    return line;
  }

  function fill() {
    list.replaceChildren(...shown.slice(0, limit).map(row));
    const left = Math.max(0, shown.length - limit);
    byId("more").hidden = !left;
    byId("more").textContent = `Show ${Math.min(left, AT_ONCE)} more of ${left.toLocaleString("en")}`;
    const counts = ["lost", "gained", "same", "not paired"]
      .map((word) => [word, shown.filter((pair) => pair.change === word).length])
      .filter(([, n]) => n).map(([word, n]) => `${n.toLocaleString("en")} ${word}`);
    byId("count").textContent =
      `${shown.length.toLocaleString("en")} of ${pairs.length.toLocaleString("en")} pairs`
      + (counts.length ? `: ${counts.join(", ")}` : "");
  }

  // -- one example -----------------------------------------------------------------------------
  function marked(text, marks) {
    const found = marks.filter((mark) => text.includes(mark));
    if (!found.length) return [visible(text)];
    const escaped = found.sort((a, b) => b.length - a.length)
      .map((mark) => mark.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    return text.split(new RegExp(`(${escaped.join("|")})`)).map((piece, i) =>
      i % 2 ? make("mark", { textContent: visible(piece) }) : visible(piece));
  }

  function prompt(example, arm) {
    const bare = arm.policy === "withheld";
    const name = bare ? `${arm.variant} withheld` : arm.variant;
    const found = example.prompts[name];
    const sent = typeof found === "string" ? example.prompts[found] : found;
    if (!sent) return make("p", { className: "note", textContent: "The prompt is not in this page." });
    const pieces = (of) => of.flatMap((piece, i) =>
      [...(i ? [make("i", { className: "left-out", textContent: " … left out … " })] : []), ...marked(piece, example.marks)]);
    const what = sent.sent ? "Prompt as sent" : "Context and question (the task is not here to make the prompt)";
    const whole = [...sent.head, ...sent.tail].reduce((n, piece) => n + piece.length, 0);
    const size = `${sent.length.toLocaleString("en")} characters`
      + (bare ? ", without the context" : `, ${example.tokens.toLocaleString("en")} tokens`)
      + (whole < sent.length ? `, ${whole.toLocaleString("en")} characters of it here` : "");
    const depth = !bare && typeof example.depth === "number" ? `, needle at depth ${number(example.depth)}` : "";
    const body = make("pre", { dir: "auto" }, ...pieces(sent.head));
    const folded = make("details", { className: "prompt" },
      make("summary", { textContent: `${what}: ${size}${depth}` }), body,
      make("p", { className: "note", textContent: "From here on the question:" }),
      make("pre", { dir: "auto" }, ...pieces(sent.tail)));
    folded.addEventListener("toggle", () => {
      const first = body.querySelector("mark");
      if (first) body.scrollTop = first.offsetTop - body.offsetTop - body.clientHeight / 3;
    });
    return folded;
  }

  const SIGNS = { "-": "del", "+": "ins" };
  function reply(answer, other) {
    const text = answer.text;
    if (answer.failure) return make("pre", { className: "failed", textContent: visible(`${answer.failure}: ${answer.message}`) });
    if (text === null) return make("p", { className: "note", textContent: "The reply was not kept." });
    const body = make("pre", { dir: "auto" });
    const pieces = other === null || other.text === null ? [["=", text]] : differences(other.text, text);
    let room = LONG;
    const put = (all) => {
      body.replaceChildren();
      for (const [sign, piece] of pieces) {
        const part = visible(all ? piece : piece.slice(0, Math.max(0, room)));
        room -= piece.length;
        if (part) body.append(SIGNS[sign] ? make(SIGNS[sign], { textContent: part }) : part);
      }
    };
    put(false);
    if (room >= 0 && answer.length <= text.length) return body;
    const more = make("button", { type: "button", textContent: `Show all ${text.length.toLocaleString("en")} characters` });
    more.addEventListener("click", () => (put(true), more.remove()));
    const missing = answer.length - text.length;
    return make("div", {}, body, room < 0 ? more : null, missing <= 0 ? null : make("p", {
      className: "note", textContent: `${missing.toLocaleString("en")} more characters are not in this page.` }));
  }

  function facts(answer) {
    const rows = [
      ["Score", number(answer.score) + (answer.strict === null ? "" : ` (strict ${number(answer.strict)})`)],
      ...Object.entries(answer.parts ?? {}).map(([name, value]) => [name.replaceAll("_", " "), number(value)]),
      ["Label", answer.label], ["Finish", answer.finish],
      ["Tokens", answer.prompt_tokens === null && answer.new_tokens === null ? null
        : `${answer.prompt_tokens ?? "–"} prompt, ${answer.new_tokens ?? "–"} new`],
      ["KV cache", answer.kept === null ? null
        : `${bytes(answer.kept)} of ${bytes(answer.full)}` + (answer.achieved === null ? "" : ` (${number(answer.achieved, 3)})`)],
      ["Latency", answer.latency === null ? null
        : seconds(answer.latency) + (answer.first === null ? "" : `, first token ${seconds(answer.first)}`)],
      ["Votes", answer.samples > 1 ? String(answer.samples) : null], ["Note", answer.note],
    ].filter(([, value]) => value);
    return make("dl", {}, ...rows.flatMap(([name, value]) =>
      [make("dt", { textContent: visible(name) }), make("dd", { textContent: visible(value) })]));
  }

  function card(answer, left, current) {
    const name = arms[answer.arm].label + (answer.replicate ? `, trial ${answer.replicate}` : "");
    const other = answer === left ? null : left;
    const change = pairs.find((pair) => pair.now === answer)?.change ?? "";
    return make("article", { className: current ? "current" : "" },
      make("h4", {}, visible(name), " ", make("span", { className: change.replace(" ", "-"), textContent: change })),
      reply(answer, byId("diff").checked ? other : null), facts(answer));
  }

  async function complete(place) {
    const example = data.examples[place];
    if (!data.served || example.whole) return;
    const found = await (await fetch(`example?place=${place}`)).json();
    Object.assign(example, found.example, { whole: true });
    for (const [at, row] of Object.entries(found.answers))
      FIELDS.forEach((name, i) => (answers[at][name] = row[i] ?? null));
  }

  async function open() {
    const id = wanted.get("example"), at = wanted.get("at");
    const pair = id && (pairs.find((p) => p.example.id === id && nameOf(p) === at)
      ?? shown.find((p) => p.example.id === id) ?? pairs.find((p) => p.example.id === id));
    one.hidden = !id;
    for (const line of list.rows)
      line.ariaCurrent = pair && line.dataset.example === id && line.dataset.at === nameOf(pair) ? "true" : null;
    if (!id) return;
    const body = byId("example");
    if (!pair) return body.replaceChildren(make("p", { textContent: "This example is not in the page." }));
    await complete(pair.place);
    const { example, now, was } = pair;
    const every = answers.filter((a) => a && a.example === pair.place && a.replicate === now.replicate
      && arms[a.arm].variant === pair.variant);
    const rest = every.filter((a) => a !== was && a !== now);
    const leftOf = (answer) => pairs.find((p) => p.now === answer)?.was ?? null;
    const ordered = [was, now, ...rest].filter(Boolean);
    body.replaceChildren(
      make("h3", { id: "example-title", tabIndex: -1, textContent: visible(`${example.task}, bin ${example.bin}, example ${example.id}`) }),
      make("dl", {}, make("dt", { textContent: "Question" }), make("dd", {}, make("pre", { dir: "auto", textContent: visible(example.question) })),
        make("dt", { textContent: "Accepted" }), make("dd", {}, make("pre", { dir: "auto", textContent: visible(example.answers.join("\n")) }))),
      prompt(example, arms[now.arm]),
      make("div", { className: "cards" }, ...ordered.map((answer) =>
        card(answer, answer === was ? answer : leftOf(answer), answer === now))));
    const key = `${id} ${at}`;
    if (key !== before) one.scrollIntoView({ block: "start" }), byId("example-title").focus({ preventScroll: true });
    before = key;
  }

  function step(by) {
    const at = shown.findIndex((p) => p.example.id === wanted.get("example") && nameOf(p) === wanted.get("at"));
    const next = shown[at < 0 ? 0 : at + by];
    if (next) location.replace(linkTo(next));
  }

  function follow() {
    if (!location.hash.startsWith("#answers")) return;
    const was = new URLSearchParams(wanted);
    wanted = new URLSearchParams(location.hash.slice("#answers?".length));
    if (wanted.has("budget")) wanted.set("budget", String(Number(wanted.get("budget"))));
    for (const select of filters) select.value = wanted.get(select.name) ?? "";
    if (document.activeElement !== search) search.value = wanted.get("q") ?? "";
    const same = [...filters.map((s) => s.name), "q"].every((name) => was.get(name) === wanted.get(name));
    if (!same) filter(), fill();
    if (!same && !wanted.get("example") && document.activeElement === document.body)
      byId("answers").scrollIntoView();
    open();
  }

  for (const select of filters) select.addEventListener("change", () => go({ [select.name]: select.value }));
  let pause = 0;
  search.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => go({ q: search.value }), 150);
  });
  byId("clear").addEventListener("click", () => location.replace("#answers?"));
  byId("more").addEventListener("click", () => ((limit += AT_ONCE), fill(), open()));
  byId("close").addEventListener("click", () => ((before = ""), go({ example: "", at: "" })));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("diff").addEventListener("change", open);
  list.addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    if (event.target.tagName !== "A" && !String(getSelection())) line.querySelector("a").click();
  });
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") return typing ? event.target.blur() : byId("close").click();
    if (typing) return;
    const act = { "/": () => search.focus(), j: () => step(1), k: () => step(-1) }[event.key];
    if (act) event.preventDefault(), act();
  });
  addEventListener("hashchange", follow);
  if (data.left_out && (!data.served || pairs.length < data.all))
    byId("left-out").textContent = byId("left-out").dataset.words.replace("{}", data.left_out);
  filter();
  fill();
  follow();
  document.documentElement.dataset.ready = "answers";
}

unpacked(byId("data")).then(browse).catch((error) => {
  byId("count").textContent = `The answers cannot be shown: ${error.message}. A newer browser may show them.`;
});
