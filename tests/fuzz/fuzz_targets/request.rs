#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (godwit_decoders::target("request").decoder)(bytes);
});
