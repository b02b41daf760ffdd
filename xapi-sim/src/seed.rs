//! Repeatable identities: every reference and uuid of a simulator comes from its seed.

use crate::value::Value;

/// A small deterministic generator (SplitMix64). Not for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Seed(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to just below 1.
    pub(crate) fn share(&mut self) -> f64 {
        // As many bits as a double holds exactly.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// 128 bits in the form of a uuid. The server does not mark a version either.
    pub(crate) fn uuid(&mut self) -> String {
        uuid_text((u128::from(self.next()) << 64) | u128::from(self.next()))
    }

    /// A new reference.
    pub(crate) fn reference(&mut self) -> String {
        format!("OpaqueRef:{}", self.uuid())
    }

    /// A new reference as a value.
    pub(crate) fn uuid_value(&mut self) -> Value {
        Value::String(self.uuid())
    }
}

/// Hexadecimal digits grouped as in a uuid.
pub(crate) fn uuid_text(bits: u128) -> String {
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_identities() {
        let (mut one, mut two, mut other) = (Seed::new(7), Seed::new(7), Seed::new(8));
        assert_eq!(one.reference(), two.reference());
        assert_ne!(one.uuid(), other.uuid());
        assert_eq!(one.uuid().len(), 36);
    }
}
