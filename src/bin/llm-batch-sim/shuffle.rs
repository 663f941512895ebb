//! Results do not come in the order of the requests; here is the order they come in.

/// Puts sorted items into an order that depends on the seed and their number only, and that is
/// never the sorted one when there are two or more.
pub fn shuffle<T: PartialOrd>(items: &mut [T], seed: u64) {
    let mut random = SplitMix(seed);
    for last in (1..items.len()).rev() {
        let other = random.below(last + 1);
        items.swap(last, other);
    }
    if items.len() > 1 && items.is_sorted() {
        items.rotate_left(1);
    }
}

/// Steele, Lea and Flood's generator: good enough to shuffle, and the same everywhere.
pub struct SplitMix(u64);

impl SplitMix {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to 1, without 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let scaled = (u128::from(self.next()) * bound as u128) >> 64;
        usize::try_from(scaled).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shuffled(count: u32, seed: u64) -> Vec<u32> {
        let mut items: Vec<u32> = (0..count).collect();
        shuffle(&mut items, seed);
        items
    }

    #[test]
    fn a_seed_is_an_order_and_never_the_first_one() {
        assert_eq!(shuffled(100, 7), shuffled(100, 7));
        assert_ne!(shuffled(100, 7), shuffled(100, 8));
        for seed in 0..50 {
            assert_eq!(shuffled(2, seed), [1, 0]);
        }
    }

    #[test]
    fn nothing_is_lost() {
        let mut items = shuffled(1000, 1);
        items.sort_unstable();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }
}
