//! Hashing keys: the same for ever, even, and without allocation.

#![expect(unsafe_code, reason = "an allocator that counts is unsafe by its trait")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tumen_core::UnixMillis;
use tumen_core::cluster::member::{Member, NodeInfo, Status};
use tumen_core::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode, Snapshot};
use tumen_core::ids::*;
use tumen_core::partitioner::Partitioner;
use tumen_core::partitions::routing::{KEY_LEN_MAX, RoutingTable};

/// Vectors made with the reference implementation (xxHash 0.8, C): key, XXH3-64, and the partition of 1, 16, 64,
/// 1,000 and 65,536.
const GOLDEN: [(&[u8], u64, [u32; 5]); 12] = [
    (b"", 0x2d06_8005_38d3_94c2, [0, 2, 11, 175, 11_526]),
    (b"a", 0xe6c6_32b6_1e96_4e1f, [0, 14, 57, 901, 59_078]),
    (b"user:1001", 0x7838_6458_0ee6_6e90, [0, 7, 30, 469, 30_776]),
    (b"order:5001", 0x9b00_d7f1_a716_f393, [0, 9, 38, 605, 39_680]),
    (b"product:abc123", 0xe18c_888f_0bd8_167a, [0, 14, 56, 881, 57_740]),
    (b"0123456789abcdef", 0x6443_9946_d8fa_212d, [0, 6, 25, 391, 25_667]),
    (&[b'x'; 17], 0x8997_5e6b_7d2f_5a11, [0, 8, 34, 537, 35_223]),
    (&[b'y'; 129], 0xed2a_c973_732f_0769, [0, 14, 59, 926, 60_714]),
    (&[b'z'; 241], 0xc9b6_e99d_e444_9036, [0, 12, 50, 787, 51_638]),
    (&[b'k'; 1_024], 0x686d_3de8_2e98_8280, [0, 6, 26, 407, 26_733]),
    ("ключ".as_bytes(), 0x9a13_7c08_c1e5_5ede, [0, 9, 38, 601, 39_443]),
    ("🐎".as_bytes(), 0x3b44_c65f_f248_0a72, [0, 3, 14, 231, 15_172]),
];

#[test]
fn keys_keep_their_partitions_for_ever() {
    for (key, hash, partitions) in GOLDEN {
        assert_eq!(tumen_core::wire::stable_hash(key), hash, "{key:?}");
        for (count, partition) in [1, 16, 64, 1_000, 65_536].into_iter().zip(partitions) {
            assert_eq!(Partitioner::Hash.partition_of(key, count), Ok(partition), "{key:?} of {count}");
        }
    }
}

#[test]
fn numbers_hash_as_their_digits() {
    for rank in [0, 7, 1001, u64::MAX] {
        let by_key = Partitioner::Hash.partition_of(rank.to_string().as_bytes(), 64);
        assert_eq!(Partitioner::Hash.partition_of_rank(rank, 64), by_key);
    }
}

/// Kinds of key that people use, sequential numbers and random uuids among them, and FNV-1a over the partitions, of
/// 1,024, of a million keys of each, one by one: made with the reference implementation, as [`GOLDEN`] was.
const KINDS: [(&str, u64); 4] = [
    ("user ids", 0x04e0_5a69_a483_c621),
    ("uuids", 0xa8e9_a519_1644_a713),
    ("utf-8", 0xa804_21d6_f385_ed9d),
    ("numbers", 0xfed4_7523_5da3_0b79),
];

/// A million keys of each kind have the partitions that they always had, and pass the chi-square test at p = 0.01 for
/// each number of partitions.
#[test]
fn a_million_keys_of_any_kind_keep_their_partitions_and_spread_evenly() {
    const KEYS: u64 = 1_000_000;
    let mut state = 0x5eed;
    let mut key = Vec::new();
    for (kind, golden) in KINDS {
        let mut counts = vec![0_u64; 1_024];
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        for number in 0..KEYS {
            key.clear();
            match kind {
                "user ids" => push(&mut key, format_args!("user:{number}")),
                "uuids" => push_uuid(&mut key, &mut state),
                "utf-8" => push(&mut key, format_args!("ключ/{number}/鍵🔑")),
                _ => key.extend_from_slice(&number.to_le_bytes()),
            }
            let partition = Partitioner::Hash.partition_of(&key, 1_024).unwrap();
            counts[partition as usize] += 1;
            digest = (digest ^ u64::from(partition)).wrapping_mul(0x0100_0000_01b3);
        }
        assert_eq!(digest, golden, "{kind}: {digest:#x}");
        // 16 and 64 partitions are the 1,024 merged in a row, as the mapping by the hash's upper bits has it.
        for (partitions, limit_thousandths) in [(16, 30_578), (64, 92_010), (1_024, 1_131_000)] {
            let merged: Vec<u64> =
                counts.chunks(1_024 / partitions).map(|chunk| chunk.iter().sum()).collect();
            let chi = chi_square_thousandths(&merged, KEYS);
            assert!(chi < limit_thousandths, "{kind} over {partitions}: chi-square {chi} thousandths");
        }
    }
}

/// Σ (observed − expected)² ÷ expected, in thousandths and whole numbers.
fn chi_square_thousandths(counts: &[u64], keys: u64) -> u128 {
    let cells = counts.len() as i128;
    let squares: i128 =
        counts.iter().map(|count| (i128::from(*count) * cells - i128::from(keys)).pow(2)).sum();
    (squares * 1_000 / (i128::from(keys) * cells)) as u128
}

fn push(key: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    key.write_fmt(text).expect("writing to memory succeeds");
}

/// A random version 4 uuid as text; SplitMix64 is the chance.
fn push_uuid(key: &mut Vec<u8>, state: &mut u64) {
    let mut next = || {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let (a, b) = (next(), next());
    let (time, version) = ((a >> 16) & 0xffff, 0x4000 | (a & 0x0fff));
    let (variant, node) = (0x8000 | ((b >> 48) & 0x3fff), b & 0xffff_ffff_ffff);
    push(key, format_args!("{:08x}-{time:04x}-{version:04x}-{variant:04x}-{node:012x}", a >> 32));
}

#[test]
fn looking_a_key_up_allocates_nothing() {
    let long = vec![b'k'; 1 << 20];
    let range = Partitioner::Range { low: 0, high: 10_000 };
    let before = ALLOCATIONS.get();
    for key in [&b""[..], b"user:1001", &long] {
        Partitioner::Hash.partition_of(key, 64).unwrap();
    }
    range.partition_of(b"512", 20).unwrap();
    assert_eq!(ALLOCATIONS.get(), before);
    drop(range.name(3, 20));
    assert!(ALLOCATIONS.get() > before, "the counter counts");
}

#[test]
fn locating_a_key_allocates_nothing() {
    let info = |node: &str| NodeInfo {
        id: NodeBoot::new(NodeName::new(node).unwrap(), Boot(1)),
        address: String::new(),
        http: None,
        zone: None,
        weight: 100,
        services: vec![],
        protocol: 1,
    };
    let member = |node| Member { info: info(node), status: Status::Up };
    let spec = GroupSpec {
        partitions: 64,
        replication: 1,
        strategy: "balanced".into(),
        mode: Mode::Async,
        partitioner: Partitioner::Hash,
        replicated: false,
    };
    let assignment =
        |index: u32| Assignment { epoch: Epoch(1), copies: vec![index % 2], ..Assignment::default() };
    let assignments = (0..spec.partitions).map(assignment).collect();
    let table = RoutingTable::new(&Snapshot {
        cluster: ClusterId(1),
        name: ClusterName::new("test").unwrap(),
        generation: Generation::ZERO,
        version: Version(1),
        steps: 0,
        term: Term(1),
        leader: NodeName::new("a").unwrap(),
        members: vec![member("a"), member("b")],
        groups: vec![GroupPlan { id: GroupId::Users, spec, assignments }],
        computed_at: UnixMillis(0),
        hash: 0,
    });
    let (longest, too_long) = (vec![b'k'; KEY_LEN_MAX], vec![b'k'; KEY_LEN_MAX + 1]);
    let before = ALLOCATIONS.get();
    for key in [&b""[..], b"user:1001", &longest] {
        let located = table.locate(key).unwrap();
        assert!(table.fence_of(located.partition).is_ok());
    }
    assert!(table.locate(&too_long).is_err());
    assert_eq!(ALLOCATIONS.get(), before);
    drop(table.locate(b"user:1001").unwrap().primary.to_string());
    assert!(ALLOCATIONS.get() > before, "the counter counts");
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
