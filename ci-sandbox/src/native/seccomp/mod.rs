//! The system call filter of every sandbox: a policy as data, compiled into a small tree.
//!
//! The kernel emulates a filter for every call number when it is loaded (to know which calls need no filter at all),
//! so it is the depth of a filter that takes time and not its length: ranges of numbers, halved until one is left.

mod policy;

use self::policy::{Check, POLICY, Rule, UNKNOWN, Verdict};

/// One instruction of a filter: `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jump_if: u8,
    jump_else: u8,
    value: u32,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

// Offsets in `struct seccomp_data` (Linux, `include/uapi/linux/seccomp.h`).
const NUMBER: u32 = 0;
const ARCHITECTURE_OF_CALL: u32 = 4;
const ARGUMENTS: u32 = 16;

impl Instruction {
    const fn plain(code: u16, value: u32) -> Self {
        Self { code, jump_if: 0, jump_else: 0, value }
    }

    const fn load(offset: u32) -> Self {
        Self::plain(0x20, offset)
    }

    const fn and(mask: u32) -> Self {
        Self::plain(0x54, mask)
    }

    const fn answer(verdict: Verdict) -> Self {
        const ALLOW: u32 = 0x7fff_0000;
        const ERROR: u32 = 0x0005_0000;
        Self::plain(
            0x06,
            match verdict {
                Verdict::Allow => ALLOW,
                Verdict::Done => ERROR,
                Verdict::Fail(error) => ERROR | error,
            },
        )
    }

    /// Skips `jump_if` instructions if the loaded word is `value`.
    const fn equal(value: u32, jump_if: u8) -> Self {
        Self { jump_if, ..Self::plain(0x15, value) }
    }

    /// Skips `jump_if` instructions if the loaded word is `value` or more.
    const fn at_least(value: u32, jump_if: u8) -> Self {
        Self { jump_if, ..Self::plain(0x35, value) }
    }

    fn encode(self) -> [u8; 8] {
        let Self { code, jump_if, jump_else, value } = self;
        let mut encoded = [0; 8];
        encoded[..2].copy_from_slice(&code.to_ne_bytes());
        encoded[2..4].copy_from_slice(&[jump_if, jump_else]);
        encoded[4..].copy_from_slice(&value.to_ne_bytes());
        encoded
    }
}

/// The filter as the kernel takes it: an array of `struct sock_filter`.
pub(super) fn filter() -> Vec<u8> {
    program().into_iter().flat_map(Instruction::encode).collect()
}

fn program() -> Vec<Instruction> {
    let head = [
        // The same number is another call on another architecture.
        Instruction::load(ARCHITECTURE_OF_CALL),
        Instruction::equal(ARCHITECTURE, 1),
        Instruction::answer(UNKNOWN),
        Instruction::load(NUMBER),
    ];
    [head.to_vec(), tree(&ranges())].concat()
}

/// Calls from `first` on, up to the next range.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: u32,
    rule: Rule,
}

/// All numbers there can be, in as few ranges as it takes.
fn ranges() -> Vec<Range> {
    let unknown = Rule::Always(UNKNOWN);
    let mut calls: Vec<(u32, Rule)> =
        POLICY.iter().flat_map(|group| group.calls.iter().map(|call| (*call, group.rule))).collect();
    calls.sort_by_key(|(call, _)| *call);
    let mut ranges = vec![Range { first: 0, rule: unknown }];
    let mut add = |first, rule| match ranges.last_mut() {
        Some(last) if last.first == first => last.rule = rule,
        Some(last) if last.rule == rule => {}
        _ => ranges.push(Range { first, rule }),
    };
    let mut next = 0;
    for (call, rule) in calls {
        if call > next {
            add(next, unknown);
        }
        add(call, rule);
        next = call + 1;
    }
    // Those of x32, which have a bit above all others, are here too.
    add(next, unknown);
    ranges
}

fn tree(ranges: &[Range]) -> Vec<Instruction> {
    if let [Range { rule, .. }] = ranges {
        return match rule {
            Rule::Always(verdict) => vec![Instruction::answer(*verdict)],
            Rule::By(check) => look(check),
        };
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let (first, lower, upper) = (upper[0].first, tree(lower), tree(upper));
    [vec![Instruction::at_least(first, distance(lower.len()))], lower, upper].concat()
}

/// Answers by an argument. The words of a call have 64 bits, the lower half first.
fn look(check: &Check) -> Vec<Instruction> {
    let Check { argument, mask, values, then, otherwise } = *check;
    let head = [Instruction::load(ARGUMENTS + 8 * argument), Instruction::and(mask)];
    // Behind the comparisons stands one answer, and behind that the other.
    let compare = |(place, value): (usize, &u32)| Instruction::equal(*value, distance(values.len() - place));
    let compared: Vec<_> = values.iter().enumerate().map(compare).collect();
    [&head[..], &compared, &[Instruction::answer(otherwise), Instruction::answer(then)]].concat()
}

fn distance(instructions: usize) -> u8 {
    u8::try_from(instructions).expect("half of this policy is short, as the tests see")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What the kernel makes of a call (Linux, `Documentation/networking/filter.rst`).
    fn interpret(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> Verdict {
        let word = |offset: u32| match offset {
            NUMBER => number,
            ARCHITECTURE_OF_CALL => architecture,
            _ => {
                let (index, half) = ((offset - ARGUMENTS) / 8, (offset - ARGUMENTS) % 8);
                assert_eq!(half, 0, "only lower halves are looked at");
                u32::try_from(arguments[index as usize] & 0xffff_ffff).expect("half a word")
            }
        };
        let (mut loaded, mut place) = (0, 0);
        // Jumps only lead forward.
        for _ in 0..program.len() {
            let Instruction { code, jump_if, jump_else, value } = program[place];
            let mut is_so = true;
            match code {
                0x20 => loaded = word(value),
                0x54 => loaded &= value,
                0x05 => place += value as usize,
                0x15 => is_so = loaded == value,
                0x35 => is_so = loaded >= value,
                0x06 if value == 0x7fff_0000 => return Verdict::Allow,
                0x06 if value == 0x0005_0000 => return Verdict::Done,
                0x06 if value >> 16 == 5 => return Verdict::Fail(value & 0xffff),
                _ => panic!("no such instruction: {code:#x} {value:#x}"),
            }
            place += 1 + usize::from(if is_so { jump_if } else { jump_else });
        }
        panic!("the filter has no end")
    }

    /// What the policy says, looked up as it is written.
    fn expected(rules: &BTreeMap<u32, Rule>, number: u32, arguments: [u64; 6]) -> Verdict {
        match rules.get(&number) {
            None => UNKNOWN,
            Some(Rule::Always(verdict)) => *verdict,
            Some(Rule::By(check)) => {
                let bits = arguments[check.argument as usize] & u64::from(check.mask);
                let is_listed = check.values.iter().any(|value| u64::from(*value) == bits);
                if is_listed { check.then } else { check.otherwise }
            }
        }
    }

    fn rules() -> BTreeMap<u32, Rule> {
        let calls = POLICY.iter().flat_map(|group| group.calls.iter().map(|call| (*call, group.rule)));
        let mut rules = BTreeMap::new();
        for (call, rule) in calls {
            assert!(rules.insert(call, rule).is_none(), "call {call} is in two groups");
        }
        rules
    }

    /// Values at every edge that a check could have, with noise above.
    fn values() -> Vec<u64> {
        let checks = POLICY.iter().filter_map(|group| match group.rule {
            Rule::By(check) => Some(check),
            Rule::Always(_) => None,
        });
        let listed = checks.flat_map(|check| check.values.iter().copied().chain([check.mask]));
        let bits = (0..32).map(|bit| 1 << bit);
        let mut values: Vec<u64> = listed
            .chain(bits)
            .chain(0..64)
            .flat_map(|value| [value, value.wrapping_sub(1), value.wrapping_add(1), !value])
            .map(u64::from)
            .collect();
        values.extend(values.clone().into_iter().map(|value| value | 1 << 32 | 1 << 63));
        values
    }

    #[test]
    fn the_filter_does_what_the_policy_says() {
        let (program, rules) = (program(), rules());
        for number in (0..2_000).chain([0x4000_0000, 0x4000_00a5, 0x7fff_ffff, u32::MAX]) {
            let arguments = match rules.get(&number) {
                Some(Rule::By(_)) => values(),
                _ => vec![0, 1, u64::MAX],
            };
            for argument in arguments {
                for index in 0..2 {
                    let mut arguments = [0x5555_5555_5555_5555; 6];
                    arguments[index] = argument;
                    let found = interpret(&program, ARCHITECTURE, number, arguments);
                    assert_eq!(found, expected(&rules, number, arguments), "{number} {arguments:x?}");
                }
            }
        }
    }

    #[test]
    fn calls_of_another_architecture_do_not_exist() {
        let program = program();
        // i386, ARM, the other one of the two that there are, and the native one in another byte order.
        for architecture in [0x4000_0003, 0x4000_0028, ARCHITECTURE ^ 0x89, ARCHITECTURE & !0x4000_0000] {
            for number in 0..600 {
                assert_eq!(interpret(&program, architecture, number, [0; 6]), UNKNOWN);
            }
        }
    }

    /// The same policy, as a compiler of others understands it: what is allowed, and what is not.
    fn of_another_compiler(rules: &BTreeMap<u32, Rule>) -> Vec<Instruction> {
        use seccompiler::{
            BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition,
            SeccompFilter, SeccompRule, TargetArch,
        };
        let condition = |check: &Check, operator, value: u32| {
            let argument = u8::try_from(check.argument).expect("one of six");
            SeccompCondition::new(argument, Length::Dword, operator, value.into()).expect("a condition")
        };
        let masked = |check: &Check, value: &u32| condition(check, Op::MaskedEq(check.mask.into()), *value);
        let allowed = |check: &Check| {
            if check.then == Verdict::Allow {
                let each = check.values.iter().map(|value| SeccompRule::new(vec![masked(check, value)]));
                return each.map(|rule| rule.expect("a rule")).collect();
            }
            let others = check.values.iter().map(|value| condition(check, Op::Ne, *value));
            vec![SeccompRule::new(others.collect()).expect("a rule")]
        };
        let rules = rules.iter().filter_map(|(call, rule)| match rule {
            Rule::Always(Verdict::Allow) => Some((i64::from(*call), Vec::new())),
            Rule::Always(_) => None,
            Rule::By(check) => Some((i64::from(*call), allowed(check))),
        });
        let target = if cfg!(target_arch = "x86_64") { TargetArch::x86_64 } else { TargetArch::aarch64 };
        let filter =
            SeccompFilter::new(rules.collect(), SeccompAction::Errno(1), SeccompAction::Allow, target);
        let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
        let own = program.iter().map(|other| Instruction {
            code: other.code,
            jump_if: other.jt,
            jump_else: other.jf,
            value: other.k,
        });
        own.collect()
    }

    #[test]
    fn another_compiler_agrees() {
        let (program, rules) = (program(), rules());
        let other = of_another_compiler(&rules);
        for number in 0..600 {
            let arguments = if matches!(rules.get(&number), Some(Rule::By(_))) { values() } else { vec![0] };
            for argument in arguments {
                let arguments = [argument; 6];
                let ours = interpret(&program, ARCHITECTURE, number, arguments) == Verdict::Allow;
                let theirs = interpret(&other, ARCHITECTURE, number, arguments) == Verdict::Allow;
                assert_eq!(ours, theirs, "{number} {argument:#x}");
            }
        }
    }

    /// The kernel walks the tree once for each of some 470 numbers when it is loaded.
    #[test]
    fn the_tree_is_small_and_flat() {
        let (program, ranges) = (program(), ranges());
        let depth = ranges.len().next_power_of_two().ilog2();
        assert!(program.len() < 250 && depth <= 8, "{} instructions, {depth} deep", program.len());
    }
}
