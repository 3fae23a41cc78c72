//! Signature Version 4 of AWS requests (AWS General Reference, "Signing AWS API requests").
//!
//! Own code, and not the AWS SDK's: `aws-sdk-kms` brings 65 crates and a newer compiler, the two requests that are made
//! here need this file. It is held against AWS's own example and against botocore.

use ci_core::clock::Timestamp;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::config::AwsCredentials;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What of a request is signed.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    /// In lower case, in their order, with their values; `host` and `x-amz-date` among them.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// The value of the header `Authorization`.
pub(super) fn authorization(
    credentials: &AwsCredentials,
    (region, service): (&str, &str),
    date: &str,
    request: &Signed<'_>,
) -> String {
    let (day, _) = date.split_once('T').expect("a date has a time");
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let names: Vec<_> = request.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let headers: Vec<_> =
        request.headers.iter().map(|(name, value)| [name, ":", value, "\n"].concat()).collect();
    let headers = headers.concat();
    let Signed { method, path, query, body, .. } = request;
    // It holds the session token.
    let canonical =
        Zeroizing::new(format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{}", digest(body)));
    let signed = format!("{ALGORITHM}\n{date}\n{scope}\n{}", digest(canonical.as_bytes()));
    let key = signing_key(credentials, day, region, service);
    let signature = HEXLOWER.encode(&*mac(&*key, signed.as_bytes()));
    let id = &credentials.access_key_id;
    format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
}

/// `at` in the form that signatures take: `20150830T123600Z`.
pub(super) fn date(at: Timestamp) -> String {
    let seconds = at.unix_millis() / 1_000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The Gregorian date of a day since 1970-01-01. Years are counted from March, so that a leap day is the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / (DAYS_IN_400_YEARS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

fn signing_key(credentials: &AwsCredentials, day: &str, region: &str, service: &str) -> Zeroizing<[u8; 32]> {
    let secret = credentials.secret_access_key.expose_secret();
    let mut first = Zeroizing::new(Vec::with_capacity(4 + secret.len()));
    first.extend_from_slice(b"AWS4");
    first.extend_from_slice(secret.as_bytes());
    let mut key = mac(&first, day.as_bytes());
    for part in [region, service, "aws4_request"] {
        key = mac(&*key, part.as_bytes());
    }
    key
}

fn mac(key: &[u8], message: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn digest(content: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(content))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> AwsCredentials {
        AwsCredentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into())
            .expect("credentials")
    }

    /// AWS General Reference, "Examples of how to derive a signing key" and of a complete signature.
    #[test]
    fn the_example_of_aws() {
        let key = signing_key(&example(), "20150830", "us-east-1", "iam");
        assert_eq!(
            HEXLOWER.encode(&*key),
            "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
        );
        let request = Signed {
            method: "GET",
            path: "/",
            query: "Action=ListUsers&Version=2010-05-08",
            headers: &[
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("host", "iam.amazonaws.com"),
                ("x-amz-date", "20150830T123600Z"),
            ],
            body: b"",
        };
        assert_eq!(
            authorization(&example(), ("us-east-1", "iam"), "20150830T123600Z", &request),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (1_709_164_800, "20240229T000000Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(date(Timestamp::from_unix_millis(seconds * 1_000)), expected);
        }
    }

    proptest! {
        #[test]
        fn the_next_day_is_the_next_date(days in 0_u64..200_000) {
            let (today, tomorrow) = (civil(days), civil(days + 1));
            prop_assert!(today < tomorrow);
            prop_assert!((1..=12).contains(&today.1) && (1..=31).contains(&today.2));
        }
    }
}
