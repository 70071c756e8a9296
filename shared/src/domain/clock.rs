//! Timestamps as Longhand stores and shows them: UTC, milliseconds, fixed width.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// RFC 3339 with exactly three decimals, so that text order is time order (`DynamoDB` sort keys).
const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A point in time in UTC with millisecond precision. Its text is RFC 3339: `2026-11-22T23:10:22.000Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a time: expected RFC 3339, such as 2026-11-22T23:10:22.000Z")]
pub struct InvalidTimestamp;

impl Timestamp {
    /// Reads the system clock. Call it at the edge and pass the value in.
    #[expect(clippy::disallowed_methods, reason = "this is the edge")]
    pub fn now() -> Self {
        Self::truncate(OffsetDateTime::now_utc())
    }

    /// From seconds since 1970.
    ///
    /// # Panics
    /// Never: every `u32` is within the calendar.
    pub fn from_unix(seconds: u32) -> Self {
        Self(OffsetDateTime::from_unix_timestamp(i64::from(seconds)).expect("a u32 of seconds ends in 2106"))
    }

    /// Seconds since 1970, the unit of `DynamoDB`'s TTL.
    pub fn unix(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// The time `by` later. Saturates at the end of the calendar.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let by = time::Duration::try_from(by).unwrap_or(time::Duration::MAX);
        Self(self.0.saturating_add(by))
    }

    /// The time `by` earlier. Saturates at the beginning of the calendar.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        let by = time::Duration::try_from(by).unwrap_or(time::Duration::MAX);
        Self(self.0.saturating_sub(by))
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0 - earlier.0).unwrap_or(Duration::ZERO)
    }

    /// [`Self::since`] in milliseconds, the unit of log fields.
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.since(earlier).as_millis()).unwrap_or(u64::MAX)
    }

    fn truncate(moment: OffsetDateTime) -> Self {
        Self(moment.replace_millisecond(moment.millisecond()).unwrap_or(moment))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.format(FORMAT).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let moment = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        // The last hours of the year 9999 in some zones are beyond the calendar in UTC.
        let utc = moment.ok().and_then(|moment| moment.checked_to_offset(time::UtcOffset::UTC));
        utc.map(Self::truncate).ok_or(InvalidTimestamp)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_fixed_width_and_reads_back() {
        let whole = Timestamp::from_unix(1_763_852_400);
        assert_eq!(whole.to_string(), "2025-11-22T23:00:00.000Z");
        let later = whole.plus(Duration::from_micros(7_999));
        assert_eq!(later.to_string(), "2025-11-22T23:00:00.007Z");
        let other_zone: Timestamp = "2025-11-23T01:00:00+02:00".parse().expect("RFC 3339");
        assert_eq!(other_zone, whole);
        assert_eq!("9999-12-31T23:59:59-23:59".parse::<Timestamp>(), Err(InvalidTimestamp));
    }

    #[test]
    fn since_never_goes_below_zero() {
        let early = Timestamp::from_unix(10);
        assert_eq!(early.plus(Duration::from_secs(5)).since(early), Duration::from_secs(5));
        assert_eq!(early.since(early.plus(Duration::from_secs(5))), Duration::ZERO);
    }
}
