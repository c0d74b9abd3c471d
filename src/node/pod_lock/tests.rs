use std::io::ErrorKind;

use super::*;

#[test]
fn one_process_of_a_pod_holds_the_lock_of_a_cluster() {
    let uid = format!("uid-{}", rand::random::<u64>());
    let lock = PodLock::take("c", &uid).unwrap();
    assert_eq!(PodLock::take("c", &uid).unwrap_err().kind(), ErrorKind::AddrInUse);
    PodLock::take("another", &uid).unwrap();
    PodLock::take("c", &format!("{uid}-2")).unwrap();
    drop(lock);
    PodLock::take("c", &uid).unwrap();
}
