//! Children without a cluster: started, asked and stopped as the runtime does it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tumen_actors::codec;
use tumen_actors::names::child::{ChildHost, ChildPlace, NotMade};
use tumen_core::NodeBoot;
use tumen_core::ids::{Boot, NodeName};
use tumen_core::names::{ClaimNumber, Name};
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use super::echo::{CRASH, Echo, Echoed, STOP, Say};
use super::*;
use crate::error::Error;
use crate::worker::encode;

fn place(args: &impl Serialize, handed: &'static [u8]) -> ChildPlace {
    ChildPlace {
        name: Name::new("one").unwrap(),
        number: ClaimNumber(7),
        node: NodeBoot::new(NodeName::new("node-1").unwrap(), Boot(3)),
        args: encode(args).unwrap(),
        handed: Bytes::from_static(handed),
    }
}

async fn started<C: Child>(
    receives: fn(Receives<C>) -> Receives<C>,
    place: ChildPlace,
) -> Result<Box<dyn ChildHost>, NotMade> {
    (hosting::<C>(receives).unwrap().start)(place).await
}

async fn send<M: Message>(host: &mut dyn ChildHost, message: &M) -> Result<M::Reply, Failure> {
    let reply: Reply = host.handle(MessageId::of(M::name()), encode(message).unwrap()).await;
    Ok(codec::decode_body(&reply?).unwrap())
}

fn say(text: &str) -> Say {
    Say { text: text.to_owned() }
}

#[tokio::test]
async fn an_echo_counts_and_hands_its_count_over_as_it_moves() {
    let mut echo = started::<Echo>(Echo::receives, place(&"args", b"")).await.unwrap();
    let answered = Echoed {
        name: "one".into(),
        node: "node-1".into(),
        fence: 7,
        count: 1,
        text: "hello".into(),
        args: "args".into(),
    };
    assert_eq!(send(&mut *echo, &say("hello")).await, Ok(answered));
    assert_eq!(send(&mut *echo, &say("")).await.map(|it| it.count), Ok(2));
    assert_eq!(echo.over(), None);
    assert_eq!(echo.stop(false).await, None);
    let handed = echo.stop(true).await.unwrap();
    assert_eq!(&*handed, 2_u64.to_le_bytes());
    let next = place(&"args", &[2, 0, 0, 0, 0, 0, 0, 0]);
    let mut next = started::<Echo>(Echo::receives, next).await.unwrap();
    assert_eq!(send(&mut *next, &say(STOP)).await.map(|it| it.count), Ok(3), "it answers first");
    assert_eq!(next.over(), Some(Ok(())));
}

#[tokio::test]
#[should_panic(expected = "it was told to")]
async fn an_echo_that_is_told_to_crash_panics() {
    let mut echo = started::<Echo>(Echo::receives, place(&"", b"")).await.unwrap();
    drop(send(&mut *echo, &say(CRASH)).await);
}

#[derive(Serialize, Deserialize)]
enum Do {
    Fail,
    Stop,
    Refuse,
}

impl Message for Do {
    type Reply = u32;

    fn name() -> &'static str {
        "do"
    }
}

/// Starts as it is told, and counts its last words.
struct Fickle(u32);

impl Child for Fickle {
    const KIND: &'static str = "fickle";
    type Args = String;

    async fn start(how: String, cx: &mut ChildContext<Self>) -> Result<Self> {
        assert_eq!((cx.name().to_string(), cx.fence(), cx.handed()), ("one".into(), ClaimNumber(7), None));
        match &*how {
            "ignore" => return Err(Error::ignore()),
            "reject" => return Err(Error::rejected("no room")),
            "stop" => cx.stop(),
            "fail" => cx.fail("no luck"),
            _ => {}
        }
        Ok(Self(0))
    }

    async fn on_stop(&mut self, _: &mut ChildContext<Self>) {
        self.0 += 1;
    }
}

impl Receive<Do> for Fickle {
    async fn receive(&mut self, what: Do, cx: &mut ChildContext<Self>) -> Result<u32> {
        match what {
            Do::Fail => cx.fail("told to"),
            Do::Stop => cx.stop(),
            Do::Refuse => return Err(Error::rejected("not today")),
        }
        Ok(self.0)
    }
}

#[tokio::test]
async fn a_child_says_itself_that_it_is_over() {
    let fickle = async || started::<Fickle>(|c| c.receives::<Do>(), place(&"", b"")).await.unwrap();
    let mut one = fickle().await;
    assert_eq!(send(&mut *one, &Do::Refuse).await, Err(Failure::Rejected("not today".into())));
    assert_eq!(one.over(), None, "it goes on");
    assert_eq!(send(&mut *one, &Do::Fail).await, Ok(0));
    assert_eq!(one.over(), Some(Err("told to".into())));
    let mut one = fickle().await;
    assert_eq!(send(&mut *one, &Do::Stop).await, Ok(0));
    assert_eq!(one.over(), Some(Ok(())));
    assert_eq!(send(&mut *one, &Do::Refuse).await, Err(Failure::Rejected("not today".into())));
    assert_eq!(send(&mut *one, &Do::Stop).await, Ok(1), "its last words were called once before");
    let Err(Failure::Rejected(why)) = send(&mut *one, &say("")).await else { panic!("it receives no text") };
    assert!(why.starts_with("fickle does not receive"), "{why}");
}

#[tokio::test]
async fn a_start_may_refuse_or_fail() {
    for (how, refused) in [
        ("ignore", NotMade::Ignored),
        ("stop", NotMade::Ignored),
        ("fail", NotMade::Failed("no luck".into())),
        ("reject", NotMade::Failed("refused: no room".into())),
    ] {
        let made = started::<Fickle>(|c| c.receives::<Do>(), place(&how, b"")).await;
        assert_eq!(made.err(), Some(refused), "{how}");
    }
    let unreadable = ChildPlace { args: Bytes::from_static(b"\x01"), ..place(&"", b"") };
    let why = started::<Fickle>(|c| c, unreadable).await.err();
    assert!(matches!(&why, Some(NotMade::Failed(why)) if why.contains("arguments")), "{why:?}");
}

#[derive(Serialize, Deserialize)]
struct Other;

impl Message for Other {
    type Reply = u32;

    fn name() -> &'static str {
        "do"
    }
}

impl Receive<Other> for Fickle {
    async fn receive(&mut self, _: Other, _: &mut ChildContext<Self>) -> Result<u32> {
        Ok(0)
    }
}

struct Nameless;

impl Child for Nameless {
    const KIND: &'static str = "no name";
    type Args = ();

    async fn start((): (), _: &mut ChildContext<Self>) -> Result<Self> {
        Ok(Self)
    }
}

#[test]
fn a_kind_that_cannot_be_hosted_is_refused_with_the_reason() {
    let why = hosting::<Fickle>(|c| c.receives::<Do>().receives::<Do>().receives::<Other>()).unwrap_err();
    assert!(matches!(why, ChildError::Message { kind: "fickle", name: "do", .. }), "{why}");
    let why = hosting::<Nameless>(|c| c).unwrap_err();
    assert!(why.to_string().contains("Nameless has a KIND that cannot be taken"), "{why}");
}

#[test]
fn arguments_are_read_from_json_and_bounded() {
    let hosted = hosting::<Echo>(Echo::receives).unwrap();
    assert_eq!((hosted.read_args)(serde_json::json!("a")), encode(&"a"));
    assert!((hosted.read_args)(serde_json::json!(7)).is_err());
    let spec = |len: usize| ChildSpec::new().of_child::<Echo>(&"a".repeat(len));
    assert!(spec(VALUE_LEN_MAX - 8).is_ok());
    let Err(Error::Name(NameFailure::Refused(Refused::TooLong(len)))) = spec(VALUE_LEN_MAX) else { panic!() };
    assert_eq!(len, VALUE_LEN_MAX + 8);
}

#[test]
fn a_reference_travels_and_is_the_same_by_its_name() {
    let one = ChildRef::<Echo>::named("one").unwrap();
    let sent = encode(&one).unwrap();
    let back: ChildRef<Echo> = codec::decode_body(&sent).unwrap();
    assert!(back == one && back != ChildRef::named("two").unwrap());
    assert!(matches!(ChildRef::<Echo>::named(""), Err(Error::BadName(NameLenError(0)))));
    assert_eq!((text_of("ключ".as_bytes()), text_of(b"a\xff")), ("ключ".into(), "a\\xff".into()));
}
