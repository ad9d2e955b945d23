// The numbers, decoded when an input is first looked at, and what is shown of them. Text from outside only ever
// reaches the page through textContent.

const element = id => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const facts = JSON.parse(document.querySelector("script.facts").textContent);
const blocks = [...document.querySelectorAll("script.input")];
const decoded = new Map();

function bytes(base64) {
  const text = atob(base64);
  const found = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index++) found[index] = text.charCodeAt(index);
  return found.buffer;
}

// One input: its JSON, and `weight(l, h, i, j)`, `vector(name, l, h, t)` by places l, h in its layers and heads.
function inputAt(number) {
  if (!decoded.has(number)) decoded.set(number, decode(JSON.parse(blocks[number].textContent)));
  return decoded.get(number);
}

function decode(input) {
  const count = input.tokens.length, heads = input.heads.length;
  const full = 2 ** input.bits - 1;
  const weights = input.bits === 16 ? new Uint16Array(bytes(input.weights)) : new Uint8Array(bytes(input.weights));
  input.weight = (l, h, i, j) => weights[((l * heads + h) * count + i) * count + j] / full;
  input.special = input.tokens.map((_, t) => t === 0 || t === count - 1 || input.segments[t] !== input.segments[t + 1]);
  input.hasVectors = "query" in input;
  if (!input.hasVectors) return input;
  for (const name of ["query", "key", "value"]) {
    input[name] = { numbers: new Int16Array(bytes(input[name].numbers)), scales: new Float32Array(bytes(input[name].scales)) };
  }
  input.outputLengths = new Float32Array(bytes(input.outputLengths));
  input.hiddenLengths = new Float32Array(bytes(input.hiddenLengths));
  input.vector = (name, l, h, t) => {
    const row = (l * heads + h) * count + t;
    const scale = input[name].scales[row];
    return Array.from(input[name].numbers.subarray(row * input.width, (row + 1) * input.width), x => x * scale);
  };
  input.outputLength = (l, h, t) => input.outputLengths[(l * heads + h) * count + t];
  input.hiddenLength = (l, t) => input.hiddenLengths[l * count + t];
  return input;
}

// `layer` and `heads` are the model's own numbers, `heads` in the order they were switched on; from and to are tokens
// or null. `hover` is passing: {side, token} under the pointer or the keyboard's focus.
const state = { input: 0, layer: 0, heads: [], from: null, to: null, view: "lines", least: 0.05, specials: true };
let hover = null;

const current = () => inputAt(state.input);
const layerPlace = () => current().layers.indexOf(state.layer);
const headPlace = head => current().heads.indexOf(head);

function colour(head, strength = 1) {
  const heads = current().heads;
  const light = getComputedStyle(document.documentElement).getPropertyValue("--light");
  return `hsl(${Math.round((360 * heads.indexOf(head)) / heads.length + 210) % 360} 70% ${light} / ${strength})`;
}

// What is not in the fragment, or makes no sense there, is as at the start.
function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  const whole = name => (/^\d+$/.test(given.get(name) ?? "") ? Number(given.get(name)) : null);
  const input = whole("input");
  state.input = input !== null && input < blocks.length ? input : 0;
  const { tokens, layers, heads } = current();
  const layer = whole("layer");
  state.layer = layers.includes(layer) ? layer : layers.at(-1);
  const named = (given.get("heads") ?? "").split(",").filter(text => /^\d+$/.test(text)).map(Number);
  const known = [...new Set(named)].filter(head => heads.includes(head));
  state.heads = given.get("heads") === "none" ? [] : known.length ? known : [...heads];
  for (const name of ["from", "to"]) {
    const token = whole(name);
    state[name] = token !== null && token < tokens.length ? token : null;
  }
  state.view = given.get("view") === "heat" ? "heat" : "lines";
  const least = Number(given.get("least"));
  state.least = least >= 0.01 && least <= 0.5 ? least : tokens.length > 40 ? 0.1 : 0.05;
  state.specials = given.get("specials") !== "0";
}

function writeFragment() {
  const parts = [`layer=${state.layer}`];
  if (blocks.length > 1) parts.unshift(`input=${state.input}`);
  if (state.heads.length !== current().heads.length) parts.push(`heads=${state.heads.join(",") || "none"}`);
  if (state.from !== null) parts.push(`from=${state.from}`);
  if (state.to !== null) parts.push(`to=${state.to}`);
  if (state.view !== "lines") parts.push(`view=${state.view}`);
  if (!state.specials) parts.push("specials=0");
  parts.push(`least=${state.least}`);
  history.replaceState(null, "", `#${parts.join("&")}`);
}

// Change the state and show it.
function change(values) {
  Object.assign(state, values);
  writeFragment();
  render();
}
