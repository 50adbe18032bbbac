//! Next words from a model file that is loaded at run time, after words on standard input.
//!
//!     lstmc compile testdata/ptb-small/model.onnx --vocab testdata/ptb-small/vocab.txt -o target/keyboard.lstmc
//!     echo "the company said it expects to" | cargo run --example load target/keyboard.lstmc
#![allow(clippy::print_stdout, reason = "an example shows its results")]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: load MODEL.lstmc")?;
    let model = lstmc::load(path)?; // compiled for this machine; shared between threads
    let tokenizer = model.tokenizer().ok_or("the model has no vocabulary")?;
    let mut session = model.session();
    let text = tokenizer.encode(&format!("\n{}", std::io::read_to_string(std::io::stdin())?.trim()))?;
    let (last, before) = text.tokens.split_last().ok_or("no words")?;
    for &token in before {
        session.advance(token)?;
    }
    let (mut ids, mut log_probabilities) = ([0; 3], [0.0; 3]);
    let found = session.top_k_into(*last, &mut ids, &mut log_probabilities)?;
    let suggestions: Vec<_> = ids[..found].iter().filter_map(|&id| tokenizer.vocabulary().word(id)).collect();
    println!("{}", suggestions.join(" | "));
    Ok(())
}
