//! English and Indonesian: which one a person gets, and the texts of `src/locales/`.

use std::borrow::Cow;

use crate::clock::Timestamp;

/// A language of the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    #[default]
    English,
    Indonesian,
}

impl Lang {
    /// The language's tag (BCP 47).
    pub const fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Indonesian => "id",
        }
    }

    /// The language of a tag: `id`, `id-ID`, `en-GB`.
    pub fn from_tag(tag: &str) -> Option<Self> {
        match tag
            .split(['-', '_'])
            .next()?
            .trim()
            .to_ascii_lowercase()
            .as_str()
        {
            "en" => Some(Self::English),
            // `in` is the tag that Java and old Android send for Indonesian.
            "id" | "in" => Some(Self::Indonesian),
            _ => None,
        }
    }

    /// The first language of an `Accept-Language` header that we speak, by weight (RFC 9110, 12.5.4).
    pub fn from_accept_language(header: &str) -> Option<Self> {
        let mut best: Option<(f32, Self)> = None;
        for part in header.split(',').take(20) {
            let mut pieces = part.split(';');
            let lang = pieces.next().and_then(Self::from_tag);
            let weight =
                pieces.find_map(|piece| piece.trim().strip_prefix(['q', 'Q'])?.strip_prefix('='));
            // What is no weight weighs nothing.
            let weight = weight.map_or(1.0, |text| {
                let weight = text.parse::<f32>().ok();
                weight
                    .filter(|weight| (0.0..=1.0).contains(weight))
                    .unwrap_or(0.0)
            });
            if let Some(lang) = lang
                && weight > best.map_or(0.0, |(weight, _)| weight)
            {
                best = Some((weight, lang));
            }
        }
        best.map(|(_, lang)| lang)
    }

    /// The text under `key`.
    pub fn text(self, key: &str) -> Cow<'static, str> {
        Cow::Owned(rust_i18n::t!(key, locale = self.code()).into_owned())
    }

    /// Whether there is a text under `key`, in this language or in English.
    pub fn has(self, key: &str) -> bool {
        crate::_rust_i18n_try_translate(self.code(), key).is_some()
    }

    /// The text under `key`, with `%{name}` filled in.
    pub fn text_with(self, key: &str, values: &[(&str, &str)]) -> String {
        let mut text = self.text(key).into_owned();
        for (name, value) in values {
            text = text.replace(&format!("%{{{name}}}"), value);
        }
        text
    }

    /// A duration in words, in its largest unit: "12 hours".
    pub fn duration(self, duration: std::time::Duration) -> String {
        let (unit, number) = largest_unit(duration.as_secs());
        self.counted("time", unit, number)
    }

    /// A moment relative to `now`, in words: "in 19 hours", "3 minutes ago".
    pub fn relative(self, at: Timestamp, now: Timestamp) -> String {
        let (seconds, direction) = if at >= now {
            (now.until(at).as_secs(), "in")
        } else {
            (now.since(at).as_secs(), "ago")
        };
        if seconds < 5 {
            return self.text("time.now").into_owned();
        }
        let (unit, number) = largest_unit(seconds);
        match direction {
            "in" => self.counted("time.in", unit, number),
            _ => self.counted("time.ago", unit, number),
        }
    }

    fn counted(self, prefix: &str, unit: &str, number: u64) -> String {
        let key = match number {
            1 => format!("{prefix}.{unit}"),
            _ => format!("{prefix}.{unit}s"),
        };
        self.text_with(&key, &[("count", &number.to_string())])
    }

    /// A number as the language writes it, with two decimals at most: "1,234.5", "1.234,5".
    pub fn number(self, value: f64) -> String {
        let (thousands, point) = match self {
            Self::English => (',', "."),
            Self::Indonesian => ('.', ","),
        };
        let plain = format!("{value:.2}");
        let plain = plain.trim_end_matches('0').trim_end_matches('.');
        let (whole, rest) = plain.split_once('.').unwrap_or((plain, ""));
        let mut text = String::new();
        for (at, digit) in whole.chars().enumerate() {
            let left = whole.len() - at;
            if left % 3 == 0 && text.ends_with(|last: char| last.is_ascii_digit()) {
                text.push(thousands);
            }
            text.push(digit);
        }
        if !rest.is_empty() {
            text.push_str(point);
            text.push_str(rest);
        }
        text
    }

    /// A day: "21 November 2026".
    pub fn day(self, at: Timestamp) -> String {
        let at = at.date_time();
        format!("{} {} {}", at.day(), self.month(at.month()), at.year())
    }

    /// A day where there is little room: "21 Nov".
    pub fn short_day(self, at: Timestamp) -> String {
        let at = at.date_time();
        let month: String = self.month(at.month()).chars().take(3).collect();
        format!("{} {month}", at.day())
    }

    fn month(self, month: time::Month) -> Cow<'static, str> {
        self.text(&format!("month.{}", u8::from(month)))
    }

    /// The exact moment: "21 November 2026, 05:06:07 UTC".
    pub fn exact(self, at: Timestamp) -> String {
        let time = at.date_time();
        let (hour, minute, second) = (time.hour(), time.minute(), time.second());
        format!("{}, {hour:02}:{minute:02}:{second:02} UTC", self.day(at))
    }
}

/// Rounded to the nearest whole of the largest unit that fits at least once.
fn largest_unit(seconds: u64) -> (&'static str, u64) {
    match seconds {
        0..=89 => ("second", seconds),
        90..=5399 => ("minute", (seconds + 30) / 60),
        5400..=129_599 => ("hour", (seconds + 1800) / 3600),
        _ => ("day", (seconds + 43_200) / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::Lang;

    #[test]
    fn numbers_are_written_as_the_language_writes_them() {
        for (value, english, indonesian) in [
            (0.0, "0", "0"),
            (7.0, "7", "7"),
            (100.0, "100", "100"),
            (-100.0, "-100", "-100"),
            (1234.5, "1,234.5", "1.234,5"),
            (1_234_567.0, "1,234,567", "1.234.567"),
        ] {
            assert_eq!(Lang::English.number(value), english);
            assert_eq!(Lang::Indonesian.number(value), indonesian);
        }
    }
}
