#!/usr/bin/env python3
"""Trains tokenizers for subwords on a text, and records what the Python packages make of hostile lines.

    pip install sentencepiece tokenizers protobuf
    subwords.py --train ptb.train.txt --out testdata/subwords
    subwords.py --train ptb.train.txt --out target/subwords --all --hostile 1000 --text ptb.test.txt

Writes the tokenizers and `expected.json`:

    {"lines": [text...], "tokenizers": {file: {"ids": [[id...]...], "decoded": [text, or null where it is the line...]}}}

`--all` adds tokenizers that are too large or too much alike for the repository. `LSTMC_SUBWORDS=$PWD/target/subwords cargo test -p lstmc-runtime
--features tokenizers subwords -- --ignored` compares them all.
"""

import argparse
import json
import random
import unicodedata
from pathlib import Path

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

SYMBOLS = ["<mask>", "N N", "<mask><mask>", "\u00df"]

# Lines that say what they are for by what they hold.
HAND = [
    "", " ", "   ", "\t", " \t \t ", "\u3000", "\u00a0", "\u2581", "\u2581\u2581", "\u2581 \u2581", " \u2581the", "the\u2581cat", "the \u2581 cat ",
    "<unk>", "<s>", "</s>", "<pad>", "the <unk> said </s> <s>", "<0x41>", "<0x0A>", "<mask>", "the<mask>cat", " <mask> ", "<mask><mask><mask>",
    "<mas", "N N N N N", "NN N", "[UNK]", "[UNK][UNK] the [UNK]", "the[UNK]", "<|endoftext|>", "a<|endoftext|>b", "\u00df", "stra\u00dfe \u00df\u00df",
    "the company said", "  the  company   said  ", "the company said ", "THE COMPANY", "The Company's won't can't I'll they've", "$ 1.5 billion",
    "3.14159 2024-01-01 1,000,000", "a" * 200, "the " * 150, " " * 300, "x" + " " * 100 + "y", "\u2581" * 100, "\U0001f600" * 40,
    "\0", "a\0b", "\0\0\0", " \0 ", "\x01\x02\x1f\x7f\x80\x9f", "tab\tbed", "line\rfeed", "form\x0cfeed\x0bvt", "\x85", "next\x85line", "\u2028para\u2029",
    "\ufeff", "\ufeffthe", "the\ufeffcat", "\u200b", "zero\u200bwidth\u200cnon\u200djoiner", "soft\u00adhyphen", "\u2060word\u2060joiner",
    "caf\u00e9", "cafe\u0301", "e\u0301\u0301\u0301\u0323", "\u0301", " \u0301", "a\u0301 \u0301b", "\u00c5 A\u030a \u212b", "\ufb01 \ufb02 \ufb03", "\u2460 \u00bd \u2122 \u2120",
    "\uff21\uff22\uff23 \uff11\uff12\uff13", "\uff76\uff9e \uff8a\uff9f", "\u304b\u3099", "\uac00\u11a8 \u1100\u1161\u11a8", "\u6f22\u5b57\u304b\u306a\u4ea4\u3058\u308a",
    "\u4e2d\u6587\uff0c\u6ca1\u6709\u7a7a\u683c\u3002", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\ufe8f\ufe90\ufe91",
    "\ufdfa", "\u202eabc\u202c", "\u2066abc\u2069", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0e33 \u0e33", "\u0915\u094d\u0937\u093f", "\u0958 \u0959", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea",
    "\U0001f44d\U0001f3fd", "\u2764\ufe0f \u2764", "\U0001d400\U0001d401", "\U0002f800", "\U000e0001", "\U0010ffff", "\ufffd", "\ufffd\ufffd the", "\uffff", "\ue000",
    "\u1e9e", "\u0130\u0131", "\u01c4\u01c5\u01c6", "\u2126 \u03a9", "~\uff5e\u301c", "don\u2019t \u201cquote\u201d", "a\u2044b", "1\u20442", "\u2025 \u2026", "\u2002\u2003\u2009x",
    "\\u{20} \\n \\", "{\"json\": [1, 2]}", "http://example.com/?a=b&c=d#e", "<html>&amp;</html>", "#0 #1", "\u0120the \u010a", "##ing", "the\u0120cat",
]  # fmt: skip


def hostile_line(rng):
    """A line of pieces of many kinds."""
    ranges = [(0x20, 0x7E), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x6FF), (0x900, 0x97F), (0x1100, 0x11FF)]
    ranges += [(0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2100, 0x218F), (0x2460, 0x24FF), (0x3000, 0x30FF), (0x4E00, 0x4F00), (0xAC00, 0xAC50)]
    ranges += [(0xF900, 0xFA6D), (0xFB00, 0xFB4F), (0xFE00, 0xFE6F), (0xFF00, 0xFFEF), (0x1D400, 0x1D4FF), (0x1F300, 0x1F64F), (0x1F3FB, 0x1F3FF)]
    words = ["the", "company", "said", "market", "N", "million", "<unk>", "</s>", "<s>", "[UNK]", "<mask>", "\u2581", "\u2581the", "$", "'s", "don't", "<|endoftext|>"]
    spaces = [" ", " ", " ", "  ", "", "", "\t", "\u00a0", "\u3000", "\u200b", " \u0301", "\u200d", "\0"]
    line = ""
    for _ in range(rng.randrange(1, 14)):
        kind = rng.random()
        if kind < 0.4:
            line += rng.choice(words)
        elif kind < 0.5:
            line += chr(rng.choice([*range(0x20), *range(0x7F, 0xA0)]))
        elif kind < 0.6:
            line += rng.choice("abcN ") * rng.randrange(1, 9)
        else:
            low, high = rng.choice(ranges)
            line += "".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 4)))
        line += rng.choice(spaces)
    # A line has no end in it.
    return line.replace("\n", "\r").encode("utf-8", "replace").decode()


def rules(path):
    """A small map of characters for SentencePiece: white space, control characters, and compatible characters of some blocks, also with marks."""
    to = {"\t": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u2003": " ", "\u200b": "", "\u00ad": "", "\ufeff": "", "\x01": "", "\x7f": "", "\u2028": " "}
    for low, high in [(0xA0, 0x100), (0xFB00, 0xFB07), (0xFF01, 0xFFA0), (0x2100, 0x2130), (0x2460, 0x2474), (0x212B, 0x212C), (0xFDFA, 0xFDFB)]:
        for c in map(chr, range(low, high)):
            if unicodedata.normalize("NFKC", c) != c:
                to.setdefault(c, unicodedata.normalize("NFKC", c))
    for base in "aeiouAEIOU":
        for mark in "\u0300\u0301\u0308\u0323":
            composed = unicodedata.normalize("NFC", base + mark)
            if len(composed) == 1:
                to[base + mark] = composed
    to["e\u0301\u0301"] = "two accents"
    hexed = lambda text: " ".join(f"{ord(c):X}" for c in text)
    path.write_text("".join(f"{hexed(a)}\t{hexed(b)}\n" for a, b in sorted(to.items())))


def sentencepieces(train, out, everything):
    rules(out / "rules.tsv")
    common = dict(input=str(train), num_threads=1, user_defined_symbols=SYMBOLS, minloglevel=2, character_coverage=1.0)
    small = dict(normalization_rule_tsv=str(out / "rules.tsv"))
    made = {
        "unigram.model": dict(model_type="unigram", vocab_size=500, pad_id=3, **small),
        "bpe.model": dict(model_type="bpe", vocab_size=800, byte_fallback=True, remove_extra_whitespaces=False, normalization_rule_name="identity"),
    }
    if everything:
        made |= {
            "unigram-nfkc.model": dict(model_type="unigram", vocab_size=2000),
            "unigram-bytes.model": dict(model_type="unigram", vocab_size=1000, byte_fallback=True, normalization_rule_name="nmt_nfkc_cf"),
            "unigram-suffix.model": dict(model_type="unigram", vocab_size=700, treat_whitespace_as_suffix=True, normalization_rule_name="nfkc"),
            "unigram-plain.model": dict(model_type="unigram", vocab_size=700, add_dummy_prefix=False, remove_extra_whitespaces=False, **small),
            "bpe-nfkc.model": dict(model_type="bpe", vocab_size=3000),
            "bpe-spaces.model": dict(model_type="bpe", vocab_size=900, split_by_whitespace=False, allow_whitespace_only_pieces=True, add_dummy_prefix=False, **small),
            "words.model": dict(model_type="word", vocab_size=900),
            "characters.model": dict(model_type="char", vocab_size=60, character_coverage=0.99),
        }
    for name, options in made.items():
        sentencepiece.SentencePieceTrainer.train(model_prefix=str(out / name.removesuffix(".model")), **common | options)
        (out / name.replace(".model", ".vocab")).unlink()
        written = proto.ModelProto.FromString((out / name).read_bytes())
        # Paths of the machine that trained it.
        for spec, field in [(written.trainer_spec, "input"), (written.trainer_spec, "model_prefix"), (written.normalizer_spec, "normalization_rule_tsv")]:
            spec.ClearField(field)
        (out / name).write_bytes(written.SerializeToString())
        model = sentencepiece.SentencePieceProcessor(model_file=str(out / name))
        yield name, model.encode, model.decode
    (out / "rules.tsv").unlink()
    if everything:
        # Pieces that are not used, among the last.
        for name in ["unigram", "bpe"]:
            model = proto.ModelProto.FromString((out / f"{name}.model").read_bytes())
            for piece in model.pieces[len(model.pieces) // 2 :: 2]:
                if piece.type == piece.NORMAL and len(piece.piece) > 1:
                    piece.type = piece.UNUSED
            (out / f"{name}-unused.model").write_bytes(model.SerializeToString())
            model = sentencepiece.SentencePieceProcessor(model_file=str(out / f"{name}-unused.model"))
            yield f"{name}-unused.model", model.encode, model.decode


def hugging_faces(train, out, everything):
    def trained(name, tokenizer, trainer):
        tokenizer.train([str(train)], trainer)
        tokenizer.save(str(out / name), pretty=False)
        tokenizer = tokenizers.Tokenizer.from_file(str(out / name))
        return name, lambda line: tokenizer.encode(line, add_special_tokens=False).ids, lambda ids: tokenizer.decode(ids, skip_special_tokens=False)

    quiet = dict(show_progress=False)
    level = tokenizers.Tokenizer(models.BPE())
    level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    level.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    yield trained("byte-level.json", level, trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, **quiet))

    meta = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    meta.normalizer = normalizers.NFKC()
    meta.pre_tokenizer = pre_tokenizers.Metaspace()
    meta.decoder = decoders.Metaspace()
    yield trained("metaspace.json", meta, trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], **quiet))
    if not everything:
        return
    pieces = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    yield trained("wordpiece.json", pieces, trainers.WordPieceTrainer(vocab_size=800, special_tokens=specials, **quiet))
    words = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    yield trained("words.json", words, trainers.WordLevelTrainer(vocab_size=800, special_tokens=specials, **quiet))
    unigram = tokenizers.Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    yield trained("unigram.json", unigram, trainers.UnigramTrainer(vocab_size=700, unk_token="<unk>", special_tokens=["<unk>", "</s>"], **quiet))
    split = tokenizers.Tokenizer(models.BPE())
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    split.decoder = decoders.ByteLevel()
    yield trained("split.json", split, trainers.BpeTrainer(vocab_size=700, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, **quiet))
    fallback = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    fallback.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    fallback.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    lines = (line for line in train.read_text().splitlines()[:2000])
    fallback.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=700, special_tokens=specials, **quiet))
    saved = json.loads(fallback.to_str())
    # As converters of SentencePiece models have it: bytes are in the vocabulary, not added.
    saved["added_tokens"] = saved["added_tokens"][:3]
    (out / "fallback.json").write_text(json.dumps(saved))
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "fallback.json"))
    yield "fallback.json", lambda line: tokenizer.encode(line, add_special_tokens=False).ids, lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="text to train on")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--text", type=Path, help="text whose lines are recorded, too")
    parser.add_argument("--hostile", type=int, default=300, help="number of hostile lines [300]")
    parser.add_argument("--all", action="store_true", help="more tokenizers")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    lines = HAND + [hostile_line(rng) for _ in range(args.hostile - len(HAND))]
    if args.text:
        lines += args.text.read_text().split("\n")
    expected = {}
    for name, encode, decode in [*sentencepieces(args.train, args.out, args.all), *hugging_faces(args.train, args.out, args.all)]:
        ids = [encode(line) for line in lines]
        decoded = [decode(ids) for ids in ids]
        expected[name] = {"ids": ids, "decoded": [None if text == line else text for text, line in zip(decoded, lines)]}
    body = ",\n".join(f"{json.dumps(name)}: {json.dumps(made, separators=(',', ':'))}" for name, made in expected.items())
    shown = ",\n".join(json.dumps(line) for line in lines)
    (args.out / "expected.json").write_text(f'{{"lines": [\n{shown}\n], "tokenizers": {{\n{body}\n}}}}\n')
    versions = f"sentencepiece {sentencepiece.__version__}, tokenizers {tokenizers.__version__}"
    print(f"{len(lines)} lines, {len(expected)} tokenizers ({versions})")


if __name__ == "__main__":
    main()
