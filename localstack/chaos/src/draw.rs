//! Reproducible random numbers: each generator depends on a seed and a name.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// A generator that depends on the seed and `parts` alone, and not on earlier draws.
pub fn rng(seed: u64, parts: &[&str]) -> StdRng {
    // FNV-1a, 64 bits: the same in every build, unlike the standard library's hashes.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let name = parts.join("\0");
    StdRng::seed_from_u64(
        name.bytes().fold(0xcbf2_9ce4_8422_2325, step) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn draws_depend_on_the_seed_and_the_name() {
        let draw = |seed, parts: &[&str]| rng(seed, parts).random::<u64>();
        assert_eq!(draw(1, &["sqs", "SendMessageBatch", "7"]), draw(1, &["sqs", "SendMessageBatch", "7"]));
        assert_ne!(draw(1, &["sqs", "SendMessageBatch", "7"]), draw(1, &["sqs", "SendMessageBatch", "8"]));
        assert_ne!(draw(1, &["sqs", "SendMessageBatch", "7"]), draw(2, &["sqs", "SendMessageBatch", "7"]));
        assert_ne!(draw(1, &["ab", "c"]), draw(1, &["a", "bc"]));
    }
}
