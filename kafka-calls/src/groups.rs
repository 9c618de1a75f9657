//! Who is in a consumer group, as its coordinator describes it.
//!
//! rdkafka asks with a request that only classic groups answer; librdkafka's
//! `rd_kafka_DescribeConsumerGroups` describes those of KIP-848 as well.
//!
//! What the unsafe code rests on:
//! - queue and event belong to this call, and each is destroyed once;
//! - what is read of a group is a part of its event, and is copied before that is destroyed.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{NonNull, null};
use std::time::Duration;

use rdkafka::bindings;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `Stable`, `Empty` and the like.
    pub state: String,
    /// Who is in it.
    pub members: Vec<Member>,
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it calls itself.
    pub client: String,
    /// Where it connects from.
    pub host: String,
    /// Topics and partitions that are assigned to it.
    pub assigned: Vec<(String, i32)>,
}

/// Asks the coordinator of the group `name` for it. `None`: there is no such group.
///
/// # Errors
/// The coordinator does not answer within `within`, or answers with an error.
pub fn describe(
    consumer: &BaseConsumer,
    name: &str,
    within: Duration,
) -> Result<Option<Group>, RDKafkaErrorCode> {
    let name = CString::new(name).map_err(|_| RDKafkaErrorCode::InvalidGroupId)?;
    let client = consumer.client().native_ptr();
    // SAFETY: the client is alive, for `consumer` holds it.
    let queue = unsafe { bindings::rd_kafka_queue_new(client) };
    let queue = Queue(NonNull::new(queue).ok_or(RDKafkaErrorCode::Fail)?);
    let mut names = [name.as_ptr()];
    let (first, to) = (names.as_mut_ptr(), queue.0.as_ptr());
    // SAFETY: client and queue are alive; there is one name, which the call copies; without
    // options it takes its defaults.
    unsafe { bindings::rd_kafka_DescribeConsumerGroups(client, first, 1, null(), to) };
    let within = c_int::try_from(within.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the queue is alive. The answer is an event of our own, or null.
    let event = unsafe { bindings::rd_kafka_queue_poll(to, within) };
    let event = Event(NonNull::new(event).ok_or(RDKafkaErrorCode::RequestTimedOut)?);
    event.group()
}

struct Queue(NonNull<bindings::rd_kafka_queue_t>);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: made in `describe`, destroyed once.
        unsafe { bindings::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

/// The answer. Everything that is read of it is alive as long as it is.
struct Event(NonNull<bindings::rd_kafka_event_t>);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: taken in `describe`, destroyed once.
        unsafe { bindings::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}

impl Event {
    fn group(&self) -> Result<Option<Group>, RDKafkaErrorCode> {
        let event = self.0.as_ptr();
        // SAFETY: the event is alive.
        succeeded(unsafe { bindings::rd_kafka_event_error(event) })?;
        // SAFETY: the event is alive. Null where it answers something else.
        let result = unsafe { bindings::rd_kafka_event_DescribeConsumerGroups_result(event) };
        let result = NonNull::new(result.cast_mut()).ok_or(RDKafkaErrorCode::Fail)?;
        let mut n = 0;
        // SAFETY: the result is a part of the event; `n` outlives the call.
        let groups = unsafe {
            bindings::rd_kafka_DescribeConsumerGroups_result_groups(result.as_ptr(), &raw mut n)
        };
        if n == 0 || groups.is_null() {
            return Ok(None);
        }
        // SAFETY: there are `n` groups, all alive as long as the event.
        let group = unsafe { *groups };
        // SAFETY: the group is alive. Null where the coordinator described it.
        let error = unsafe { bindings::rd_kafka_ConsumerGroupDescription_error(group) };
        if !error.is_null() {
            // SAFETY: the error is a part of the group.
            match succeeded(unsafe { bindings::rd_kafka_error_code(error) }) {
                Err(RDKafkaErrorCode::GroupIdNotFound) => return Ok(None),
                other => other?,
            }
        }
        // SAFETY: the group is alive.
        let state = unsafe { bindings::rd_kafka_ConsumerGroupDescription_state(group) };
        // SAFETY: any state has a name that is never freed.
        let state = unsafe { bindings::rd_kafka_consumer_group_state_name(state) };
        // SAFETY: the name ends with a zero byte.
        let state = unsafe { text(state) };
        // SAFETY: the group is alive.
        let n = unsafe { bindings::rd_kafka_ConsumerGroupDescription_member_count(group) };
        let member = |at: usize| {
            // SAFETY: the group is alive and has more than `at` members.
            let it = unsafe { bindings::rd_kafka_ConsumerGroupDescription_member(group, at) };
            // SAFETY: the member is a part of the group.
            unsafe { member(it) }
        };
        let members = (0..n).map(member).collect();
        // So brokers before Kafka 4 call a group that is not there.
        Ok((state != "Dead").then_some(Group { state, members }))
    }
}

fn succeeded(code: RDKafkaRespErr) -> Result<(), RDKafkaErrorCode> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        other => Err(RDKafkaErrorCode::from(other)),
    }
}

/// # Safety
/// `member` is alive.
unsafe fn member(member: *const bindings::rd_kafka_MemberDescription_t) -> Member {
    // SAFETY: the member is alive, and so are its names.
    let client = unsafe { bindings::rd_kafka_MemberDescription_client_id(member) };
    // SAFETY: as above.
    let host = unsafe { bindings::rd_kafka_MemberDescription_host(member) };
    // SAFETY: as above; null where nothing is assigned.
    let assigned = unsafe { bindings::rd_kafka_MemberDescription_assignment(member) };
    let assigned = match assigned.is_null() {
        true => null(),
        // SAFETY: the assignment is a part of the member.
        false => unsafe { bindings::rd_kafka_MemberAssignment_partitions(assigned) },
    };
    Member {
        // SAFETY: a name ends with a zero byte, or is null.
        client: unsafe { text(client) },
        // SAFETY: as above.
        host: unsafe { text(host) },
        // SAFETY: the list is a part of the member, or null.
        assigned: unsafe { partitions(assigned) },
    }
}

/// # Safety
/// `list` is alive or null.
unsafe fn partitions(list: *const bindings::rd_kafka_topic_partition_list_t) -> Vec<(String, i32)> {
    // SAFETY: the list is alive, or null.
    let Some(list) = (unsafe { list.as_ref() }) else { return Vec::new() };
    let n = usize::try_from(list.cnt).unwrap_or(0);
    let of = |at: usize| {
        // SAFETY: the list has more than `at` elements.
        let it = unsafe { list.elems.add(at) };
        // SAFETY: that element is a part of the list.
        let it = unsafe { &*it };
        // SAFETY: its topic is a name that ends with a zero byte.
        (unsafe { text(it.topic) }, it.partition)
    };
    (0..n).map(of).collect()
}

/// A copy of a name; empty where there is none.
///
/// # Safety
/// `name` ends with a zero byte and is alive, or is null.
unsafe fn text(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: the name ends with a zero byte and is alive.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}
