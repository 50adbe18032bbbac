//! A keyboard's suggestions, from a model that is part of the program: reads lines of words and prints the likeliest next ones.

use keyboard::{Error, Model, State};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut state = State::new();
    // A text begins as if a line had ended.
    let mut last = Model::token("<eos>").ok_or(Error::Token)?;
    for line in std::io::stdin().lines() {
        for word in line?.split_whitespace() {
            state.advance(last)?;
            last = Model::token(word).or_else(|| Model::token("<unk>")).ok_or(Error::Token)?;
        }
        // Suggestions consume the last word too, so they are made in a copy of the state.
        let (mut ids, mut log_probabilities) = ([0; 3], [0.0; 3]);
        state.clone().top_k(last, &mut ids, &mut log_probabilities)?;
        let words: Vec<_> = ids.iter().filter_map(|&id| Model::word(id)).collect();
        println!("{}", words.join(" | "));
    }
    Ok(())
}
