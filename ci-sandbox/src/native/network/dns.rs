//! Answers to the sandbox's look-ups of names (RFC 1035). Nobody outside is asked: the hosts that rules name have
//! addresses inside, and all other names do not exist. So no look-up carries anything out.

use std::net::Ipv4Addr;

use ci_core::network::HostName;

use super::names::Names;

/// The largest query that is looked at, and no answer is larger: a name, its type, and what a client says of itself.
pub(super) const LARGEST: usize = 512;

const HEADER: usize = 12;
const A: u16 = 1;
const ANY: u16 = 255;
const INTERNET: u16 = 1;

/// What to send back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) message: Vec<u8>,
    /// The name that was asked for, when no rule names it.
    pub(super) refused: Option<String>,
}

/// The codes of RFC 1035, section 4.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Success = 0,
    FormatError = 1,
    NoSuchName = 3,
    NotImplemented = 4,
}

/// Answers a query; not at all when it is none.
pub(super) fn answer(query: &[u8], names: &Names) -> Option<Reply> {
    let header = query.first_chunk::<HEADER>()?;
    let is_answer = header[2] & 0x80 != 0;
    if is_answer || query.len() > LARGEST {
        return None;
    }
    let empty = |code| Some(Reply { message: message(header, &[], code, None), refused: None });
    if header[2] & 0x78 != 0 {
        return empty(Code::NotImplemented);
    }
    let Some(question) = Question::parse(&query[HEADER..]).filter(|_| header[4..6] == [0, 1]) else {
        return empty(Code::FormatError);
    };
    let found = question.address(names);
    let code = if found.is_some() { Code::Success } else { Code::NoSuchName };
    // Of a name that exists there is an IPv4 address, and nothing else.
    let wants_address = matches!(question.kind, A | ANY) && question.class == INTERNET;
    let address = found.filter(|_| wants_address);
    Some(Reply {
        message: message(header, question.bytes, code, address),
        refused: found.is_none().then_some(question.name),
    })
}

struct Question<'a> {
    /// As it came, to be sent back.
    bytes: &'a [u8],
    /// The labels with dots between them.
    name: String,
    /// Whether the text says the same as the labels.
    is_plain: bool,
    kind: u16,
    class: u16,
}

impl<'a> Question<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        const LONGEST_LABEL: usize = 63;
        const LONGEST_NAME: usize = 255;
        let (mut name, mut is_plain, mut at) = (String::new(), true, 0);
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // Greater ones are pointers, which a question has nothing to point to with.
            if length > LONGEST_LABEL || at + length >= LONGEST_NAME {
                return None;
            }
            let label = bytes.get(at..at + length)?;
            at += length;
            is_plain &= label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&String::from_utf8_lossy(label));
        }
        let number = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let (kind, class) = (number(at)?, number(at + 2)?);
        Some(Self { bytes: &bytes[..at + 4], name, is_plain, kind, class })
    }

    fn address(&self, names: &Names) -> Option<Ipv4Addr> {
        let name = HostName::parse(&self.name).ok().filter(|_| self.is_plain)?;
        names.address(&name)
    }
}

fn message(header: &[u8; HEADER], question: &[u8], code: Code, address: Option<Ipv4Addr>) -> Vec<u8> {
    const ANSWER: u8 = 0x80;
    const RECURSION: u8 = 0x80;
    const OPERATION_AND_RECURSION_WANTED: u8 = 0x79;
    const SECONDS: u32 = 60;
    const NAME_OF_QUESTION: u16 = 0xc00c;
    let count = |is_there: bool| u16::from(is_there).to_be_bytes();
    let mut message = header[..2].to_vec();
    message.extend([ANSWER | (header[2] & OPERATION_AND_RECURSION_WANTED), RECURSION | code as u8]);
    message.extend(count(!question.is_empty()));
    message.extend(count(address.is_some()));
    message.extend([0; 4]);
    message.extend(question);
    if let Some(address) = address {
        for field in [NAME_OF_QUESTION, A, INTERNET] {
            message.extend(field.to_be_bytes());
        }
        message.extend(SECONDS.to_be_bytes());
        message.extend(4_u16.to_be_bytes());
        message.extend(address.octets());
    }
    message
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::Egress;
    use super::super::policy::Policy;
    use super::super::policy::tests::rules;
    use super::*;

    fn names() -> Names {
        Names::of(&Policy::new(&rules(&["files.example:443"]), &Egress::default()).unwrap(), None)
    }

    fn query(labels: &[&[u8]], kind: u16) -> Vec<u8> {
        let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
        for label in labels {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(*label);
        }
        query.push(0);
        query.extend(kind.to_be_bytes());
        query.extend([0, 1]);
        query
    }

    fn ask(labels: &[&[u8]], kind: u16) -> (u8, Option<[u8; 4]>, Option<String>) {
        let query = query(labels, kind);
        let Reply { message, refused } = answer(&query, &names()).unwrap();
        assert_eq!(message[..2], query[..2]);
        assert_eq!(message[HEADER..query.len()], query[HEADER..]);
        let address = (message[7] == 1).then(|| *message.last_chunk().unwrap());
        (message[3] & 15, address, refused)
    }

    /// N-5: what no rule names is answered from here, whatever it carries.
    #[test]
    fn names_of_rules_have_an_address_and_others_do_not_exist() {
        assert_eq!(ask(&[b"files", b"example"], A), (0, Some([127, 64, 0, 1]), None));
        assert_eq!(ask(&[b"FILES", b"eXample"], A), (0, Some([127, 64, 0, 1]), None));
        assert_eq!(ask(&[b"localhost"], A), (0, Some([127, 0, 0, 1]), None));
        for kind in [28, 16, 15, 5, 65] {
            assert_eq!(ask(&[b"files", b"example"], kind), (0, None, None), "nothing but an address: {kind}");
        }
        for labels in [
            &[b"evil".as_slice(), b"example"][..],
            &[b"c2VjcmV0", b"files", b"example"],
            &[b"files.example"],
            &[b"files\0", b"example"],
            &[b"files", b"example", b"evil"],
            &[],
        ] {
            let (code, address, refused) = ask(labels, A);
            assert_eq!((code, address), (3, None), "{labels:?}");
            assert!(refused.is_some(), "{labels:?}");
        }
    }

    #[test]
    fn what_is_no_query_is_answered_with_an_error_or_not_at_all() {
        let names = names();
        let good = query(&[b"files", b"example"], A);
        let changed = |at: usize, value: u8| {
            let mut query = good.clone();
            query[at] = value;
            answer(&query, &names).map(|reply| reply.message[3] & 15)
        };
        assert_eq!(changed(2, 0x81), None, "an answer");
        assert_eq!(changed(2, 0x28), Some(4), "an update");
        assert_eq!(changed(5, 2), Some(1), "two questions");
        assert_eq!(changed(12, 0xc0), Some(1), "a pointer");
        assert_eq!(answer(&good[..11], &names), None);
        assert_eq!(answer(&good[..20], &names).unwrap().message[3] & 15, 1, "cut short");
        assert_eq!(answer(&[0; LARGEST + 1], &names), None);
    }

    proptest! {
        #[test]
        fn no_query_breaks_it_and_no_answer_is_larger_than_it_may_be(
            query in prop::collection::vec(any::<u8>(), 0..600),
            labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..6),
        ) {
            let names = names();
            let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
            for query in [query, self::query(&labels, A)] {
                if let Some(reply) = answer(&query, &names) {
                    prop_assert!(reply.message.len() <= query.len() + 16 && reply.message[2] & 0x80 != 0);
                }
            }
        }
    }
}
