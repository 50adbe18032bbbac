//! `lstmc report`.

use crate::program::{Sandbox, TINY, TINY_TEXT, TINY_WORDS};

/// A page with all its parts, that needs nothing from elsewhere and takes names literally.
#[test]
fn a_page_of_two_models() {
    let sandbox = Sandbox::new();
    let small = "[dir]/a&b <small>.lstmc";
    let passes = "quantize(bits=4, method=nearest)";
    sandbox.ok(&["compile", TINY, "--vocab", TINY_WORDS, "--passes", passes, "-o", small]);
    sandbox.file("prompts.txt", "the cat\n\nthe dog\n");
    let args = ["report", TINY, small, "--vocab", TINY_WORDS, "--text", TINY_TEXT, "--counts", TINY_TEXT];
    let out = ["--prompts", "[dir]/prompts.txt", "--title", "Tiny <models>", "-o", "[dir]/page.html"];
    sandbox.ok(&[&args[..], &out].concat());
    let page = std::fs::read_to_string(sandbox.path("page.html")).unwrap();
    for part in [
        "<h1>Tiny &lt;models&gt;</h1>",
        "a&amp;b &lt;small&gt;",
        "Size and perplexity",
        "Time and perplexity",
        "95% interval",
        "Loss by how frequent the next word is",
        "Loss by place in the line",
        "the dog",
        "What bounds speed",
        "quantize(bits=4, method=nearest",
        "lstmc report",
    ] {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
    assert!(!page.contains("<small>") && !page.contains("<script") && !page.contains("{{"), "{page}");
    let links = page.matches("http").count() - page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count();
    assert_eq!((links, page.matches("src=").count()), (0, 0), "{page}");
}

#[test]
fn a_text_of_one_token_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.file("one.txt", "cat");
    let run = sandbox.run(&[
        "report",
        TINY,
        "--vocab",
        TINY_WORDS,
        "--text",
        "[dir]/one.txt",
        "-o",
        "[dir]/page.html",
    ]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("at least two tokens"), "{}", run.stderr);
}
