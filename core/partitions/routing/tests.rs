use super::*;
use crate::cluster::member::Status;
use crate::partitions::plans::{boot, plan};

/// Of the users' partitions the last three have nobody who may serve: who is first is lost or away, or nobody is there.
fn snapshot() -> Snapshot {
    let members = [
        (boot("a", 7), Status::Up),
        (boot("b", 1), Status::Leaving),
        (boot("c", 4), Status::Lost),
        (boot("d", 2), Status::Away),
    ];
    let users = vec![
        (vec![0, 1], 5),
        (vec![1, 0, 2], 1),
        (vec![0, 2], 9),
        (vec![2, 0], 3),
        (vec![3, 1], 2),
        (vec![], 0),
    ];
    let names = vec![(vec![1], 8), (vec![2], 4)];
    plan(12, &members, &[(GroupId::Users, users), (GroupId::Names, names)])
}

#[test]
fn the_table_says_of_every_partition_what_its_plan_says() {
    let plan = snapshot();
    let table = RoutingTable::new(&plan);
    assert_eq!(table.version(), plan.version);
    let members: Vec<_> = plan.members.iter().map(|member| member.id().clone()).collect();
    assert_eq!(table.nodes(), members);
    for group in &plan.groups {
        assert_eq!(table.partitions(group.id), Some(group.spec.partitions));
    }
    for (partition, _) in plan.partitions() {
        let located = table.primary_of(partition);
        let expected =
            plan.primary_of(partition).map(|(primary, epoch)| Located { partition, epoch, primary });
        assert_eq!(located, expected.ok_or(RouteError::NoPrimary(partition)));
        let fence = Fence { generation: plan.generation, epoch: Epoch::ZERO, partition };
        let expected = expected.map(|located| Fence { epoch: located.epoch, ..fence });
        assert_eq!(table.fence_of(partition), expected.ok_or(RouteError::NoPrimary(partition)));
    }
    let unserved = plan.partitions().filter(|(id, _)| table.primary_of(*id).is_err());
    let unserved: Vec<_> = unserved.map(|(id, _)| id.to_string()).collect();
    assert_eq!(unserved, ["partition-3", "partition-4", "partition-5", "names-1"]);
}

#[test]
fn a_key_is_located_where_its_partition_is_served() {
    let plan = snapshot();
    let table = RoutingTable::new(&plan);
    let mut met = [false; 6];
    for number in 0..100 {
        let key = format!("user:{number}");
        let index = Partitioner::Hash.partition_of(key.as_bytes(), 6).unwrap();
        met[index as usize] = true;
        assert_eq!(table.partition_of(GroupId::Users, key.as_bytes()), Ok(PartitionId::user(index)));
        assert_eq!(table.locate(key.as_bytes()), table.primary_of(PartitionId::user(index)));
    }
    assert_eq!(met, [true; 6]);
}

#[test]
fn what_no_plan_has_is_not_routed() {
    let (none, table) = (RoutingTable::default(), RoutingTable::new(&snapshot()));
    assert_eq!(
        (none.version(), none.nodes(), none.partitions(GroupId::Users)),
        (Version::ZERO, &[][..], None)
    );
    assert_eq!(none.locate(b"user:1"), Err(RouteError::NoPlan));
    let beyond = PartitionId::user(6);
    assert_eq!(none.primary_of(beyond), Err(RouteError::NoPlan));
    assert_eq!(table.primary_of(beyond), Err(RouteError::NoPrimary(beyond)));
    let longest = vec![b'k'; KEY_LEN_MAX + 1];
    assert!(table.partition_of(GroupId::Users, &longest[1..]).is_ok());
    assert_eq!(table.locate(&longest), Err(RouteError::KeyTooLong(KEY_LEN_MAX + 1)));
}
