// A keyboard's suggestions by a compiled language model of words: those of `lstmc suggest`, without the unknown word.
//
// keyboard.wasm.gz is the C that `lstmc build` writes, compiled by clang; its functions are those of the header, and need no other code. Memory after the
// module's own is this file's: a state, and the logits of a step.

/** Where words end, as for lstmc: at Unicode's white space. */
const WHITE = /\p{White_Space}+/u;
/** Tokens' usual names, the most usual first. */
const BEGIN = ["<s>", "<bos>", "<sos>"];
const END = ["<eos>", "</s>"];
const UNKNOWN = ["<unk>", "[UNK]", "<UNK>"];
/** The words that the page shows. */
const SHOWN = 3;
/** The words whose states are kept: deleting so many costs one step each, and deleting more reads the text again. */
const KEPT = 64;
/** The suggestions whose mean time is shown. */
const MEAN = 20;

class Model {
    static async load(url) {
        const response = await fetch(url);
        if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
        let bytes = await response.arrayBuffer();
        // Some servers declare a file that ends with gz as compressed, and the browser has unpacked it.
        if (new DataView(bytes).getUint16(0) === 0x1f8b) {
            const packed = new Blob([bytes]).stream();
            bytes = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
        }
        return new Model((await WebAssembly.instantiate(bytes)).instance.exports);
    }

    constructor(c) {
        this.c = c;
        const [words, size, align] = [c.keyboard_vocabulary_size(), c.keyboard_state_size(), c.keyboard_state_align()];
        const state = Math.ceil(c.__heap_base.value / align) * align;
        const logits = state + size; // a size is a multiple of the alignment
        const pages = Math.ceil((logits + 4 * words - c.memory.buffer.byteLength) / 65536);
        if (pages > 0) c.memory.grow(pages);
        this.state = new Uint8Array(c.memory.buffer, state, size);
        this.logits = new Float32Array(c.memory.buffer, logits, words);

        const bytes = new Uint8Array(c.memory.buffer);
        const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
        const text = (address) => decoder.decode(bytes.subarray(address, bytes.indexOf(0, address)));
        this.info = JSON.parse(text(c.keyboard_info()));
        this.words = Array.from({ length: words }, (_, token) => text(c.keyboard_word(token)));
        this.tokens = new Map(this.words.map((word, token) => [word, token]));
        const named = (names) => this.tokens.get(names.find((name) => this.tokens.has(name)));
        this.end = named(END);
        this.begin = named(BEGIN) ?? this.end;
        this.unknown = named(UNKNOWN);
        if ([this.begin, this.end, this.unknown].includes(undefined))
            throw new Error("The vocabulary lacks a token for the end of a line or for unknown words.");

        /** The tokens that the logits follow. */
        this.read = [];
        /** States by how many tokens they have consumed. */
        this.states = new Map();
    }

    /** The likeliest words after a text; or, if it ends within a word, those that begin with its letters. */
    suggest(text) {
        const letters = text.match(/\P{White_Space}*$/u)[0];
        const { tokens, lacking } = this.encode(text.slice(0, text.length - letters.length));
        const steps = this.follow(tokens);
        const { logits, words } = this;
        const best = [];
        for (let token = 0; token < words.length; token++) {
            if (best.length === SHOWN && !(logits[token] > logits[best[SHOWN - 1]])) continue;
            if (token === this.unknown || !words[token].startsWith(letters)) continue;
            let at = best.length;
            while (at > 0 && logits[token] > logits[best[at - 1]]) at--;
            best.splice(at, 0, token);
            best.length = Math.min(best.length, SHOWN);
        }
        const likely = best.map((token) => {
            const ends = token === this.end && letters === "";
            return { word: words[token], ends, probability: Math.exp(logits[token] - this.total) };
        });
        return { letters, lacking, likely, steps, after: tokens.length };
    }

    /** A text's tokens, with the one that texts begin with before them, and the words that the vocabulary lacks. */
    encode(text) {
        const tokens = [this.begin];
        const lacking = [];
        for (const [number, line] of text.replace(/^\ufeff/, "").split("\n").entries()) {
            if (number > 0) tokens.push(this.end);
            for (const word of line.split(WHITE).filter((word) => word !== "")) {
                const token = this.tokens.get(word);
                if (token === undefined) lacking.push(word);
                tokens.push(token ?? this.unknown);
            }
        }
        return { tokens, lacking };
    }

    /** Computes the logits after some tokens, and returns in how many steps: in one, if all but the last token were read before. */
    follow(tokens) {
        const { c, read, state, states, logits } = this;
        let same = 0;
        while (same < read.length && read[same] === tokens[same]) same++;
        if (same === tokens.length && same === read.length) return 0;
        const last = tokens.length - 1;
        const kept = [...states.keys()].filter((count) => count <= Math.min(same, last));
        const first = Math.max(0, ...kept);
        for (const other of states.keys()) if (other > same) states.delete(other);
        if (first > 0) state.set(states.get(first));
        else check(c.keyboard_reset(state.byteOffset, state.length, c.keyboard_abi_version()));
        for (let count = first; count < last; count++) {
            check(c.keyboard_advance(state.byteOffset, tokens[count]));
            this.keep(count + 1);
        }
        check(c.keyboard_step(state.byteOffset, tokens[last], logits.byteOffset, logits.length));
        this.keep(tokens.length);
        this.read = tokens;
        // The logarithm of the softmax's denominator.
        const most = logits.reduce((most, x) => Math.max(most, x), -Infinity);
        this.total = most + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - most), 0));
        return tokens.length - first;
    }

    /** Keeps a copy of the state. */
    keep(count) {
        this.states.set(count, this.state.slice());
        this.states.delete(count - KEPT);
    }
}

/** The model's functions are called as its header says: their errors are mistakes in this file. */
function check(status) {
    if (status !== 0) throw new Error(`status ${status}, see enum keyboard_status in keyboard.h`);
}

const element = (id) => document.getElementById(id);
const field = element("text");
const buttons = [...element("suggestions").children];

let model;
/** What is shown, and the text that it follows. */
let shown = { likely: [], letters: "" };
let before = null;
/** Whether keys take words. */
let keys = true;
/** The milliseconds that the last suggestions took. */
let times = [];
let speaking;

function update() {
    const text = field.value.slice(0, field.selectionStart);
    if (!model || text === before) return;
    before = text;
    const start = performance.now();
    const next = model.suggest(text);
    // Browsers round their clocks: a mean is finer.
    times = [...times, performance.measure("suggestion", { start, detail: next.steps }).duration].slice(-MEAN);
    keys ||= next.after !== shown.after;
    shown = next;
    show();
}

function show() {
    const { likely, letters, lacking } = shown;
    for (const [n, button] of buttons.entries()) {
        button.disabled = n >= likely.length;
        button.replaceChildren();
        if (button.disabled) continue;
        const { word, ends, probability } = likely[n];
        const parts = { word: ends ? "new line" : word, share: `${(100 * probability).toFixed(1)}%` };
        for (const [name, text] of Object.entries(parts)) {
            const part = document.createElement("span");
            part.className = name;
            part.textContent = text;
            button.append(part, " ");
        }
    }
    element("suggestions").classList.toggle("keys", keys);
    const names = [...new Set(lacking)].map((word) => `“${word}”`).slice(-3).join(", ");
    const none = likely.length === 0 ? `The model knows no word that begins with “${letters}”. ` : "";
    element("note").textContent = none + (names === "" ? "" : `The model does not know ${names}, and reads ${model.words[model.unknown]}.`);
    element("time").textContent = `${(times.reduce((sum, time) => sum + time) / times.length).toFixed(2)} ms`;
    // After a pause, so that letters are not talked over.
    clearTimeout(speaking);
    speaking = setTimeout(() => {
        const words = likely.map(({ word, ends }) => (ends ? "new line" : word)).join(", ");
        element("spoken").textContent = words === "" ? none : `Suggestions: ${words}`;
    }, 1000);
}

/** Puts a suggestion into the text: of a word that has been begun, the rest. */
function take({ word, ends }) {
    const text = ends ? "\n" : `${word.slice(shown.letters.length)} `;
    field.focus();
    if (field.value[field.selectionEnd] === " ") field.selectionEnd++;
    // The only way that the browser can undo.
    if (!document.execCommand("insertText", false, text)) field.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
    update();
}

field.addEventListener("input", update);
document.addEventListener("selectionchange", update);
field.addEventListener("keydown", (event) => {
    if (event.isComposing || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    if (event.key === "Escape") {
        keys = false;
        show();
    }
    const n = event.key === "Tab" ? 0 : ["1", "2", "3"].indexOf(event.key);
    if (!keys || shown.likely[n] === undefined) return;
    event.preventDefault();
    take(shown.likely[n]);
});
for (const [n, button] of buttons.entries()) {
    // The field keeps the focus, and a phone its keyboard.
    button.addEventListener("pointerdown", (event) => event.preventDefault());
    button.addEventListener("click", () => take(shown.likely[n]));
}

try {
    model = await Model.load("keyboard.wasm.gz");
    update();
    performance.mark("first suggestion");
    const { info, words } = model;
    element("model").textContent = `${info.name}, ${words.length.toLocaleString("en")} words`;
    const files = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
    const bytes = files.reduce((sum, file) => sum + file.encodedBodySize, 0);
    element("size").textContent = `${Math.round(bytes / 1000).toLocaleString("en")} kB`;
} catch (error) {
    element("note").textContent = `The model cannot be loaded. ${error.message}`;
    throw error;
}
