#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lstmc_fuzz::tokenizer(bytes));
