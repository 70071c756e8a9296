//! The level of a recording, frame by frame.

/// Samples of a frame: 20 ms at 16 kHz.
pub(super) const FRAME_SAMPLES: usize = 320;

/// Frames a second.
#[cfg(test)]
pub(super) const RATE: f64 = 50.0;

/// Digital silence, and all that is as quiet, in decibels below full scale.
pub(super) const SILENCE: f32 = -90.0;

/// The levels of 16-bit samples in decibels below full scale, one for each frame. The last frame may be incomplete.
pub(super) fn of(samples: &[u8]) -> impl Iterator<Item = f32> {
    samples.chunks(FRAME_SAMPLES * 2).map(level)
}

/// The power of a frame around its mean, since a constant offset is not audible.
fn level(frame: &[u8]) -> f32 {
    let samples =
        || frame.as_chunks().0.iter().map(|sample| f64::from(i16::from_le_bytes(*sample)) / 32_768.0);
    let count = f64::from(u32::try_from(frame.len() / 2).unwrap_or(u32::MAX));
    let mean = samples().sum::<f64>() / count;
    let power = samples().map(|sample| (sample - mean).powi(2)).sum::<f64>() / count;
    #[expect(clippy::cast_possible_truncation, reason = "a level needs no more digits")]
    let level = (10.0 * power.log10()) as f32;
    // Not `clamp`: a power of zero or NaN becomes silence.
    level.max(SILENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(samples: impl Iterator<Item = i16>) -> Vec<f32> {
        of(&samples.flat_map(i16::to_le_bytes).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn a_level_is_the_power_of_a_frame() {
        let square = (0..640).map(|n| if n % 2 == 0 { i16::MAX } else { -i16::MAX });
        assert!(levels(square).iter().all(|level| level.abs() < 0.01));
        let tenth = (0..FRAME_SAMPLES).map(|n| if n % 2 == 0 { 3277 } else { -3277 });
        assert!((levels(tenth)[0] + 20.0).abs() < 0.01);
    }

    #[test]
    fn silence_and_a_constant_offset_have_the_lowest_level() {
        assert_eq!(levels(std::iter::repeat_n(0, 321)), [SILENCE; 2]);
        assert_eq!(levels(std::iter::repeat_n(9_000, 320)), [SILENCE]);
    }
}
