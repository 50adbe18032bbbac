//! Next words from a model file, and the perplexity of a text.
//!
//!     cargo run --example suggest
#![allow(clippy::print_stdout, reason = "an example shows its results")]

use lstmc::Source;
use lstmc::backend::Options;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/ptb-small");
    let source = Source::read(format!("{data}/model.onnx"))?
        .with_vocabulary(Some(format!("{data}/vocab.txt").as_ref()))?
        .canonical()?;
    let model = source.compile(Options::default())?; // immutable, shared between threads
    let tokenizer = model.tokenizer().ok_or("a vocabulary")?;

    let mut session = model.session(); // one stream of text: nothing is allocated per token
    let prompt = tokenizer.encode("the company said it expects to")?;
    let (last, before) = prompt.tokens.split_last().ok_or("a prompt")?;
    for &token in before {
        session.advance(token)?;
    }
    let (mut ids, mut log_probabilities) = ([0; 5], [0.0; 5]);
    let found = session.top_k_into(*last, &mut ids, &mut log_probabilities)?;
    for (&id, p) in ids[..found].iter().zip(log_probabilities) {
        println!("{:5.1}%  {}", p.exp() * 100.0, tokenizer.vocabulary().word(id).unwrap_or("?"));
    }

    let text = tokenizer.encode(&std::fs::read_to_string(format!("{data}/test.txt"))?)?;
    session.reset();
    println!("perplexity {:.4}", session.perplexity(&text.tokens)?);
    Ok(())
}
