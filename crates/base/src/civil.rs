//! Dates for people, without a library: all that is needed is UTC.

use std::fmt;

/// A moment in the civil calendar, UTC. As text it is RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// As in 2026.
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
    /// 0 to 23.
    pub hour: u64,
    /// 0 to 59.
    pub minute: u64,
    /// 0 to 59.
    pub second: u64,
}

impl Civil {
    /// The moment so many seconds after the beginning of 1970.
    ///
    /// In eras of 400 years that begin on a first of March (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    /// `civil_from_days`).
    #[must_use]
    pub fn of(seconds: u64) -> Self {
        let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }
}

impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(Civil::of(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Civil::of(951_827_696).to_string(), "2000-02-29T12:34:56Z");
        assert_eq!(Civil::of(1_795_000_000).to_string(), "2026-11-18T11:06:40Z");
    }
}
