"""The resolver against a real DNS server on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdtypes.tlsabase
import dns.rrset
import pytest
from dns_server import Zone, failing, serving, silent
from policy_fakes import ManualClock

from policy.answers import Absence, Absent, Answer, Found, MxRecord, TlsaRecord, Unknown, UnknownReason
from policy.nameservers import DnssecSupport, IpFamily, NameServer, TrustAd
from policy.observer import DnsResult, NullObserver, RecordType
from policy.resolver import MAX_TTL, UNKNOWN_TTL, DnsResolver, system_nameservers

SECOND = timedelta(seconds=1)


class Watcher(NullObserver):
    def __init__(self) -> None:
        self.seen: list[tuple[RecordType, DnsResult]] = []

    def dns_asked(self, record_type: RecordType, result: DnsResult) -> None:
        self.seen.append((record_type, result))


class Bench:
    """A zone being served, a clock to move, and resolvers that ask there."""

    def __init__(self, zone: Zone, server: NameServer) -> None:
        self.zone = zone
        self.server = server
        self.clock = ManualClock()
        self.watcher = Watcher()

    def resolver(
        self,
        *,
        trust_ad: TrustAd = TrustAd.AUTO,
        ip_family: IpFamily = IpFamily.ANY,
        timeout: float = 5,
        extra: tuple[NameServer, ...] = (),
        cache_size: int = 100,
    ) -> DnsResolver:
        return DnsResolver(
            nameservers=[*extra, self.server],
            timer=self.clock.seconds,
            timeout=timedelta(seconds=timeout),
            trust_ad=trust_ad,
            ip_family=ip_family,
            observer=self.watcher,
            cache_size=cache_size,
        )


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    zone = Zone()
    async with serving(zone) as server:
        yield Bench(zone, server)


def records(answer: Answer[object]) -> list[object]:
    assert isinstance(answer, Found), answer
    return list(answer.records)


async def test_mx_records_are_canonical(bench: Bench) -> None:
    bench.zone.add("x.test", "MX", "10 MX1.X.test.", "20 mx_2.x.test.")
    answer = await bench.resolver().mx("x.test")
    assert set(records(answer)) == {
        MxRecord(preference=10, host="mx1.x.test"),
        MxRecord(preference=20, host="mx_2.x.test"),
    }
    assert isinstance(answer, Found)
    assert answer.canonical_name == "x.test"
    assert answer.ttl == 300 * SECOND


async def test_a_null_mx_is_an_empty_host(bench: Bench) -> None:
    bench.zone.add("x.test", "MX", "0 .")
    assert records(await bench.resolver().mx("x.test")) == [MxRecord(preference=0, host="")]


@pytest.mark.parametrize(
    ("exchange", "shown"),
    [
        (r"mx\.evil.test.", r"mx\.evil.test"),
        (r"\000.x.test.", r"\000.x.test"),
        (r"a\032b.x.test.", r"a\032b.x.test"),
        (r"\013\010x.test.", r"\013\010x.test"),
        ("-mx.x.test.", "-mx.x.test"),
        ("192.0.2.1.", "192.0.2.1"),
        (r"\195\188.x.test.", r"\195\188.x.test"),
        ("*.x.test.", "*.x.test"),
    ],
)
async def test_l16_an_mx_target_that_is_no_host_name_is_marked(bench: Bench, exchange: str, shown: str) -> None:
    bench.zone.add("x.test", "MX", f"10 {exchange}", "20 mx.x.test.")
    answer = await bench.resolver().mx("x.test")
    assert set(records(answer)) == {
        MxRecord(preference=10, host="", invalid=shown),
        MxRecord(preference=20, host="mx.x.test"),
    }


@pytest.mark.stock
def test_stock_l16_dnspython_text_of_an_odd_label_looks_like_another_name() -> None:
    name = dns.name.Name([b"mx.evil", b"test", b""])
    assert name.to_text(omit_final_dot=True).replace("\\", "") == "mx.evil.test"


@pytest.mark.rfc("8461-3.1-n", "8461-3.1-a")
async def test_character_strings_are_joined_without_a_separator(bench: Bench) -> None:
    bench.zone.add("_mta-sts.x.test", "TXT", '"v=STSv1; id=2016" "0831085700Z;"', '"other \\255"')
    answer = await bench.resolver().txt("_mta-sts.x.test")
    assert set(records(answer)) == {b"v=STSv1; id=20160831085700Z;", b"other \xff"}


@pytest.mark.rfc("8461-3.1-o", "5321-5.1-b")
@pytest.mark.parametrize("chase", [True, False])
async def test_cnames_are_followed_also_when_the_server_leaves_it_to_us(bench: Bench, chase: bool) -> None:
    bench.zone.chase = chase
    bench.zone.add("_mta-sts.a.test", "CNAME", "b.test.")
    bench.zone.add("b.test", "CNAME", "_mta-sts.c.test.")
    bench.zone.add("_mta-sts.c.test", "TXT", '"v=STSv1; id=1;"')
    answer = await bench.resolver().txt("_mta-sts.a.test")
    assert records(answer) == [b"v=STSv1; id=1;"]
    assert isinstance(answer, Found)
    assert answer.canonical_name == "_mta-sts.c.test"


@pytest.mark.rfc("8461-3.1-p")
@pytest.mark.parametrize("chase", [True, False])
async def test_a_loop_of_cnames_is_an_unknown_answer_and_no_hang(bench: Bench, chase: bool) -> None:
    bench.zone.chase = chase
    bench.zone.add("a.test", "CNAME", "b.test.")
    bench.zone.add("b.test", "CNAME", "a.test.")
    answer = await bench.resolver().txt("a.test")
    assert isinstance(answer, Unknown)
    assert answer.reason is UnknownReason.MALFORMED
    assert len(bench.zone.asked) <= 8


@pytest.mark.rfc("8461-3.1-z")
@pytest.mark.parametrize(
    ("present", "absence"),
    [(("x.test", "A", "192.0.2.1"), Absence.NODATA), (("y.test", "A", "192.0.2.1"), Absence.NXDOMAIN)],
)
async def test_absence_is_nxdomain_or_nodata_and_lives_as_the_soa_says(
    bench: Bench, present: tuple[str, str], absence: Absence
) -> None:
    bench.zone.add(*present, "192.0.2.1")
    resolver = bench.resolver()
    assert await resolver.txt("x.test") == Absent(absence=absence, ttl=60 * SECOND)
    bench.clock.move(59 * SECOND)
    assert await resolver.txt("x.test") == Absent(absence=absence, ttl=SECOND)
    assert len(bench.zone.asked) == 1
    bench.clock.move(SECOND)
    await resolver.txt("x.test")
    assert len(bench.zone.asked) == 2


async def test_absence_at_the_end_of_a_cname_is_absence(bench: Bench) -> None:
    bench.zone.add("x.test", "CNAME", "y.test.")
    bench.zone.add("y.test", "A", "192.0.2.1")
    answer = await bench.resolver().txt("x.test")
    assert answer == Absent(absence=Absence.NODATA, ttl=60 * SECOND)
    assert len(bench.zone.asked) == 1
    bench.zone.add("z.test", "CNAME", "gone.test.")
    answer = await bench.resolver().txt("z.test")
    assert answer == Absent(absence=Absence.NXDOMAIN, ttl=60 * SECOND)


async def test_absence_without_an_soa_is_not_kept(bench: Bench) -> None:
    bench.zone.with_soa = False
    resolver = bench.resolver()
    assert await resolver.txt("x.test") == Absent(absence=Absence.NXDOMAIN, ttl=timedelta(0))
    await resolver.txt("x.test")
    assert len(bench.zone.asked) == 2


@pytest.mark.rfc("8461-3.1-x")
async def test_answers_live_for_their_ttl_and_tell_what_is_left_of_it(bench: Bench) -> None:
    bench.zone.ttl = 5
    bench.zone.add("x.test", "TXT", '"old"')
    resolver = bench.resolver()
    assert records(await resolver.txt("x.test")) == [b"old"]
    bench.zone.records["x.test", "TXT"] = ['"new"']
    bench.clock.move(4 * SECOND)
    answer = await resolver.txt("x.test")
    assert records(answer) == [b"old"]
    assert isinstance(answer, Found)
    assert answer.ttl == SECOND
    bench.clock.move(SECOND)
    assert records(await resolver.txt("x.test")) == [b"new"]


async def test_a_ttl_of_zero_is_not_cached(bench: Bench) -> None:
    bench.zone.ttl = 0
    bench.zone.add("x.test", "TXT", '"a"')
    resolver = bench.resolver()
    await resolver.txt("x.test")
    await resolver.txt("x.test")
    assert len(bench.zone.asked) == 2


async def test_no_ttl_is_longer_than_a_day(bench: Bench) -> None:
    bench.zone.ttl = 2**31 - 1
    bench.zone.add("x.test", "TXT", '"a"')
    resolver = bench.resolver()
    answer = await resolver.txt("x.test")
    assert isinstance(answer, Found)
    assert answer.ttl == MAX_TTL
    bench.clock.move(MAX_TTL)
    await resolver.txt("x.test")
    assert len(bench.zone.asked) == 2


@pytest.mark.rfc("8461-5-i", "8461-5-f")
async def test_a_fresh_question_passes_the_cache_over_and_refills_it(bench: Bench) -> None:
    bench.zone.add("x.test", "TXT", '"old"')
    resolver = bench.resolver()
    await resolver.txt("x.test")
    bench.zone.records["x.test", "TXT"] = ['"new"']
    assert records(await resolver.txt("x.test")) == [b"old"]
    assert records(await resolver.txt("x.test", fresh=True)) == [b"new"]
    assert records(await resolver.txt("x.test")) == [b"new"]
    assert len(bench.zone.asked) == 2


async def test_a_fresh_unknown_answer_does_not_leave_the_old_one_in_the_cache(bench: Bench) -> None:
    bench.zone.add("x.test", "TXT", '"old"')
    resolver = bench.resolver()
    await resolver.txt("x.test")
    bench.zone.rules["x.test", "TXT"] = failing(dns.rcode.SERVFAIL)
    assert isinstance(await resolver.txt("x.test", fresh=True), Unknown)
    assert isinstance(await resolver.txt("x.test"), Unknown)


async def test_many_who_ask_at_once_send_one_question(bench: Bench) -> None:
    bench.zone.add("x.test", "TXT", '"a"')
    resolver = bench.resolver()
    answers = await asyncio.gather(*(resolver.txt("x.test") for _ in range(50)))
    assert all(records(answer) == [b"a"] for answer in answers)
    assert len(bench.zone.asked) == 1


async def test_case_and_final_dot_make_no_second_question(bench: Bench) -> None:
    bench.zone.add("x.test", "TXT", '"a"')
    resolver = bench.resolver()
    await resolver.txt("x.test")
    await resolver.txt("X.Test.")
    assert len(bench.zone.asked) == 1


async def test_the_cache_is_bounded(bench: Bench) -> None:
    resolver = bench.resolver(cache_size=2)
    for name in ("a.test", "b.test", "c.test", "a.test"):
        await resolver.txt(name)
    assert bench.zone.count("a.test", "TXT") == 2


@pytest.mark.rfc("8461-3.1-y")
async def test_a_truncated_answer_is_asked_for_again_over_tcp(bench: Bench) -> None:
    bench.zone.truncate_udp = True
    bench.zone.add("x.test", "TXT", *(f'"{letter * 250}"' for letter in "abcdefghijklmnop"))
    answer = await bench.resolver().txt("x.test")
    assert len(records(answer)) == 16
    assert [transport for _, _, transport in bench.zone.asked] == ["udp", "tcp"]


@pytest.mark.rfc("8461-3.1-z", "8461-2-d")
@pytest.mark.parametrize(
    ("rcode", "code", "reason"),
    [
        (dns.rcode.SERVFAIL, None, UnknownReason.SERVFAIL),
        (dns.rcode.SERVFAIL, 22, UnknownReason.SERVFAIL),
        (dns.rcode.SERVFAIL, 6, UnknownReason.BOGUS),
        (dns.rcode.SERVFAIL, 7, UnknownReason.BOGUS),
        (dns.rcode.SERVFAIL, 12, UnknownReason.BOGUS),
        (dns.rcode.REFUSED, None, UnknownReason.REFUSED),
        (dns.rcode.REFUSED, 18, UnknownReason.REFUSED),
        (dns.rcode.FORMERR, None, UnknownReason.MALFORMED),
        (dns.rcode.NOTIMP, None, UnknownReason.MALFORMED),
        (dns.rcode.YXDOMAIN, None, UnknownReason.MALFORMED),
    ],
)
async def test_errors_are_unknown_with_reason_and_extended_error(
    bench: Bench, rcode: dns.rcode.Rcode, code: int | None, reason: UnknownReason
) -> None:
    bench.zone.rules["x.test", "TXT"] = failing(rcode, code, "see\nthe \x1b[31mlog")
    answer = await bench.resolver().txt("x.test")
    assert isinstance(answer, Unknown)
    assert answer.reason is reason
    if rcode != dns.rcode.YXDOMAIN:
        assert answer.extended_error == code
    assert answer.detail.isprintable()
    assert len(answer.detail) <= 200


async def test_silence_is_a_time_out_within_the_limit(bench: Bench) -> None:
    bench.zone.rules["x.test", "TXT"] = silent
    loop = asyncio.get_running_loop()
    started = loop.time()
    answer = await bench.resolver(timeout=0.4).txt("x.test")
    assert loop.time() - started < 0.6
    assert isinstance(answer, Unknown)
    assert answer.reason is UnknownReason.TIMEOUT


async def test_names_that_got_no_answer_lately_hold_up_no_others(bench: Bench) -> None:
    names = [f"dead{n}.test" for n in range(300)]
    bench.zone.add("good.test", "TXT", '"here"')
    for name in names:
        bench.zone.rules[name, "TXT"] = silent
    resolver = bench.resolver(timeout=1, cache_size=1000)
    await asyncio.gather(*(resolver.txt(name) for name in names))
    bench.clock.move(UNKNOWN_TTL)
    again = [asyncio.create_task(resolver.txt(name)) for name in names]
    await asyncio.sleep(0)
    bench.zone.asked.clear()
    assert records(await resolver.txt("good.test")) == [b"here"]
    assert not any(task.done() for task in again)
    assert len({name for name, _, _ in bench.zone.asked}) <= 65
    bench.zone.rules.clear()
    for task in again[64:]:
        task.cancel()
    await asyncio.wait(again)
    bench.clock.move(UNKNOWN_TTL)
    assert isinstance(await resolver.txt(names[0]), Absent)


async def test_a_time_out_tells_what_each_name_server_said(bench: Bench) -> None:
    bench.zone.rules["x.test", "TXT"] = silent
    async with serving(Zone(rules={("x.test", "TXT"): failing(dns.rcode.REFUSED)})) as first:
        answer = await bench.resolver(timeout=2, extra=(first,)).txt("x.test")
    assert isinstance(answer, Unknown)
    assert answer.reason is UnknownReason.TIMEOUT
    assert f"@{first.port}: REFUSED" in answer.detail
    assert f"@{bench.server.port}: " in answer.detail


async def test_a_port_where_nobody_listens_is_unknown() -> None:
    async with serving(Zone()) as server:
        pass
    resolver = DnsResolver(nameservers=[server], timer=lambda: 0.0, timeout=SECOND)
    answer = await resolver.txt("x.test")
    assert isinstance(answer, Unknown)
    assert answer.reason is UnknownReason.TIMEOUT


async def test_a_server_that_sends_to_tcp_and_does_not_listen_there_is_unknown() -> None:
    zone = Zone(truncate_udp=True)
    async with serving(zone, with_tcp=False) as server:
        answer = await DnsResolver(nameservers=[server], timer=lambda: 0.0).txt("x.test")
    assert isinstance(answer, Unknown)
    assert answer.reason is UnknownReason.TIMEOUT
    assert "refused" in answer.detail or "Connect call failed" in answer.detail


@pytest.mark.parametrize("host", ["mail\\.x.test", "a\\032b.test", "\\000.test"])
async def test_a_name_with_backslashes_is_not_read_as_escapes(bench: Bench, host: str) -> None:
    await bench.resolver(ip_family=IpFamily.IPV4).addresses(host)
    ((asked, _, _),) = bench.zone.asked
    assert asked.replace("\\\\", "\\") == host


async def test_an_unknown_answer_is_kept_for_seconds_only(bench: Bench) -> None:
    bench.zone.rules["x.test", "TXT"] = failing(dns.rcode.SERVFAIL)
    resolver = bench.resolver()
    await resolver.txt("x.test")
    await resolver.txt("x.test")
    assert len(bench.zone.asked) == 1
    assert timedelta(0) < UNKNOWN_TTL <= 5 * SECOND
    bench.clock.move(UNKNOWN_TTL)
    await resolver.txt("x.test")
    assert len(bench.zone.asked) == 2


async def test_the_second_name_server_is_asked_when_the_first_fails(bench: Bench) -> None:
    bench.zone.add("x.test", "TXT", '"a"')
    broken = Zone(rules={("x.test", "TXT"): failing(dns.rcode.SERVFAIL)})
    async with serving(broken) as first:
        answer = await bench.resolver(extra=(first,)).txt("x.test")
    assert records(answer) == [b"a"]
    assert len(broken.asked) == 1


@pytest.mark.parametrize("garbage", ["wrong-id", "wrong-question", "junk", "not-a-response"])
async def test_forged_and_broken_answers_are_not_used(bench: Bench, garbage: str) -> None:
    def reply(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text("x.test.", 300, "IN", "TXT", '"forged"'))
        if garbage == "wrong-id":
            response.id = (response.id + 1) % 65536
        if garbage == "wrong-question":
            response.question[0].name = dns.name.from_text("y.test.")
        if garbage == "not-a-response":
            response.flags &= ~dns.flags.QR
        return b"\xff" * 20 if garbage == "junk" else response.to_wire()

    bench.zone.rules["x.test", "TXT"] = reply
    assert isinstance(await bench.resolver(timeout=0.3).txt("x.test"), Unknown)


async def test_records_for_another_name_are_not_used(bench: Bench) -> None:
    def reply(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text("y.test.", 300, "IN", "TXT", '"poison"'))
        response.additional.append(dns.rrset.from_text("x.test.", 300, "IN", "TXT", '"poison"'))
        return response.to_wire()

    bench.zone.rules["x.test", "TXT"] = reply
    resolver = bench.resolver()
    assert isinstance(await resolver.txt("x.test"), Absent)
    bench.zone.add("y.test", "TXT", '"real"')
    assert records(await resolver.txt("y.test")) == [b"real"]


@pytest.mark.parametrize(("trust_ad", "authentic"), [(TrustAd.AUTO, True), (TrustAd.YES, True), (TrustAd.NO, False)])
async def test_the_ad_bit_counts_where_the_name_server_is_trusted(
    bench: Bench, trust_ad: TrustAd, authentic: bool
) -> None:
    bench.zone.authentic = True
    bench.zone.add("x.test", "MX", "10 mx.x.test.")
    resolver = bench.resolver(trust_ad=trust_ad)
    found = await resolver.mx("x.test")
    absent = await resolver.txt("x.test")
    gone = await resolver.txt("gone.test")
    assert isinstance(found, Found)
    assert isinstance(absent, Absent)
    assert isinstance(gone, Absent)
    assert (found.authentic, absent.authentic, gone.authentic) == (authentic, authentic, authentic)


async def test_an_answer_without_ad_is_not_authentic(bench: Bench) -> None:
    bench.zone.add("x.test", "MX", "10 mx.x.test.")
    answer = await bench.resolver(trust_ad=TrustAd.YES).mx("x.test")
    assert isinstance(answer, Found)
    assert not answer.authentic


@pytest.mark.rfc("7672-2.1.1-a", "7672-2.1.1-k")
@pytest.mark.parametrize(("trust_ad", "asks"), [(TrustAd.AUTO, True), (TrustAd.NO, False)])
async def test_dnssec_is_asked_for_where_it_counts_and_never_left_unchecked(
    bench: Bench, trust_ad: TrustAd, asks: bool
) -> None:
    seen: list[dns.message.Message] = []

    def keep(query: dns.message.Message) -> bytes:
        seen.append(query)
        return dns.message.make_response(query).to_wire()

    bench.zone.rules["mx.test", "TLSA"] = keep
    await bench.resolver(trust_ad=trust_ad).tlsa("mx.test")
    assert bool(seen[0].ednsflags & dns.flags.DO) is asks
    assert seen[0].flags & dns.flags.AD
    assert not seen[0].flags & dns.flags.CD


@pytest.mark.rfc("7672-2.1.1-c", "7672-2.1.1-d", "7672-2.1.1-b", "6698-4.1-b")
@pytest.mark.parametrize(
    ("address", "trust_ad", "believed"),
    [
        ("127.0.0.1", TrustAd.AUTO, True),
        ("127.0.0.1", TrustAd.NO, False),
        ("192.0.2.1", TrustAd.AUTO, False),
        ("192.0.2.1", TrustAd.YES, True),
    ],
)
async def test_one_name_server_that_is_not_near_takes_the_trust_from_all(
    bench: Bench, address: str, trust_ad: TrustAd, believed: bool
) -> None:
    bench.zone.authentic = True
    bench.zone.add("mx.test", "A", "192.0.2.1")
    resolver = DnsResolver(
        nameservers=[bench.server, NameServer(address=address)], timer=bench.clock.seconds, trust_ad=trust_ad
    )
    answer = await resolver.addresses("mx.test")
    assert isinstance(answer, Found)
    assert answer.authentic is believed


@pytest.mark.rfc("6698-2-a")
async def test_tlsa_records_are_as_published(bench: Bench) -> None:
    bench.zone.authentic = True
    bench.zone.add("_25._tcp.mx.test", "TLSA", f"3 1 1 {'ab' * 32}", "255 254 253 00ff")
    answer = await bench.resolver().tlsa("_25._tcp.mx.test")
    assert set(records(answer)) == {
        TlsaRecord(usage=3, selector=1, matching_type=1, data=b"\xab" * 32),
        TlsaRecord(usage=255, selector=254, matching_type=253, data=b"\x00\xff"),
    }
    assert isinstance(answer, Found)
    assert answer.authentic


@pytest.mark.rfc("6698-4.1-c")
async def test_a_digest_of_the_wrong_length_does_not_take_the_others_with_it(bench: Bench) -> None:
    bench.zone.add("_25._tcp.mx.test", "TLSA", "3 1 1 abcd", "3 1 2 ab", f"3 1 1 {'ab' * 32}", r"\# 3 030101")
    assert len(records(await bench.resolver().tlsa("_25._tcp.mx.test"))) == 4


@pytest.mark.rfc("7672-2.1.1-i")
async def test_a_tlsa_record_that_is_cut_off_makes_the_answer_unknown(bench: Bench) -> None:
    def reply(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text("_25._tcp.mx.test.", 300, "IN", "TLSA", "3 1 0 aa"))
        return response.to_wire().replace(b"\x00\x04\x03\x01\x00\xaa", b"\x00\x02\x03\x01")

    bench.zone.rules["_25._tcp.mx.test", "TLSA"] = reply
    assert isinstance(await bench.resolver(timeout=0.4).tlsa("_25._tcp.mx.test"), Unknown)
    assert bench.zone.asked


async def test_an_answer_of_very_many_records_comes_over_tcp(bench: Bench) -> None:
    bench.zone.truncate_udp = True
    bench.zone.add("_25._tcp.mx.test", "TLSA", *(f"3 1 1 {number:064x}" for number in range(1000)))
    assert len(records(await bench.resolver().tlsa("_25._tcp.mx.test"))) == 1000
    assert [transport for _, _, transport in bench.zone.asked] == ["udp", "tcp"]


@pytest.mark.rfc("7672-2.1.1-l")
async def test_a_cached_answer_keeps_its_ad_bit_for_its_ttl(bench: Bench) -> None:
    bench.zone.authentic = True
    bench.zone.ttl = 60
    bench.zone.add("mx.test", "TLSA", f"3 1 1 {'ab' * 32}")
    resolver = bench.resolver()
    await resolver.tlsa("mx.test")
    bench.zone.authentic = False
    bench.clock.move(59 * SECOND)
    answers = [await resolver.tlsa("mx.test")]
    bench.clock.move(SECOND)
    answers.append(await resolver.tlsa("mx.test"))
    assert [isinstance(answer, Found) and answer.authentic for answer in answers] == [True, False]


@pytest.mark.rfc("7672-2.1.1-h")
@pytest.mark.parametrize("authentic", [True, False])
async def test_there_being_no_tlsa_is_an_answer_secure_or_not(bench: Bench, authentic: bool) -> None:
    bench.zone.authentic = authentic
    bench.zone.add("nodata.test", "A", "192.0.2.1")
    for name in ("nodata.test", "nxdomain.test"):
        answer = await bench.resolver().tlsa(name)
        assert isinstance(answer, Absent)
        assert answer.authentic is authentic


@pytest.mark.rfc("7672-2.1.3-a", "7672-2.1.3-b", "7672-2.1.3-c", "7672-2.1.3-d")
@pytest.mark.parametrize("insecure", [None, "a.test", "b.test", "c.test"])
@pytest.mark.parametrize("chase", [True, False])
async def test_a_chain_is_secure_if_all_of_it_is(bench: Bench, chase: bool, insecure: str | None) -> None:
    bench.zone.authentic, bench.zone.chase = True, chase
    bench.zone.add("a.test", "CNAME", "b.test.")
    bench.zone.add("b.test", "CNAME", "c.test.")
    bench.zone.add("c.test", "A", "192.0.2.1")
    bench.zone.insecure |= {insecure} if insecure else set()
    answer = await bench.resolver(ip_family=IpFamily.IPV4).addresses("a.test")
    assert isinstance(answer, Found)
    assert answer.authentic is (insecure is None)
    bench.zone.rules["c.test", "AAAA"] = failing(dns.rcode.SERVFAIL)
    bench.zone.chase = False
    assert isinstance(await bench.resolver(ip_family=IpFamily.IPV6).addresses("a.test"), Unknown)


@pytest.mark.rfc("7672-2.1.3-e")
@pytest.mark.parametrize("authentic", [True, False])
async def test_the_alias_itself_can_be_asked_for(bench: Bench, authentic: bool) -> None:
    bench.zone.authentic = authentic
    bench.zone.add("a.test", "CNAME", "B.test.")
    bench.zone.add("b.test", "A", "192.0.2.1")
    answer = await bench.resolver().cname("a.test")
    assert isinstance(answer, Found)
    assert (answer.records, answer.authentic) == (("B.test",), authentic)
    assert isinstance(await bench.resolver().cname("b.test"), Absent)


@pytest.mark.rfc("7672-2.2.2-i")
@pytest.mark.parametrize(("insecure", "authentic"), [("A", True), ("AAAA", True), ("both", False)])
async def test_one_family_that_is_secure_makes_the_addresses_secure(
    bench: Bench, insecure: str, authentic: bool
) -> None:
    for rdtype, address in (("A", "192.0.2.1"), ("AAAA", "2001:db8::1")):
        bench.zone.authentic = insecure not in {rdtype, "both"}
        response = dns.rrset.from_text("mx.test.", 300, "IN", rdtype, address)

        def reply(
            query: dns.message.Message, rrset: dns.rrset.RRset = response, ad: bool = bench.zone.authentic
        ) -> bytes:
            message = dns.message.make_response(query)
            message.flags |= dns.flags.AD if ad else 0
            message.answer.append(rrset)
            return message.to_wire()

        bench.zone.rules["mx.test", rdtype] = reply
    answer = await bench.resolver().addresses("mx.test")
    assert isinstance(answer, Found)
    assert answer.authentic is authentic
    assert len(answer.records) == 2


@pytest.mark.rfc("7672-2.1.1-b", "7672-2.1.1-d")
@pytest.mark.parametrize(
    ("authentic", "trust_ad", "support"),
    [
        (True, TrustAd.AUTO, DnssecSupport.VALIDATES),
        (False, TrustAd.AUTO, DnssecSupport.NOT_VALIDATING),
        (True, TrustAd.NO, DnssecSupport.NOT_TRUSTED),
    ],
)
async def test_whether_the_name_server_validates(
    bench: Bench, authentic: bool, trust_ad: TrustAd, support: DnssecSupport
) -> None:
    bench.zone.authentic = authentic
    bench.zone.add("signed.test", "SOA", "ns.test. admin.test. 1 3600 600 86400 60")
    assert await bench.resolver(trust_ad=trust_ad).dnssec_support("signed.test") is support
    bench.zone.records.clear()  # a denial that is signed says as much
    assert await bench.resolver(trust_ad=trust_ad).dnssec_support("signed.test") is support


async def test_the_root_is_what_is_asked_about(bench: Bench) -> None:
    bench.zone.rules[".", "SOA"] = failing(dns.rcode.SERVFAIL)
    assert await bench.resolver().dnssec_support() is DnssecSupport.UNKNOWN
    assert bench.zone.asked == [(".", "SOA", "udp")]
    assert bench.watcher.seen == [(RecordType.SOA, DnsResult.SERVFAIL)]


@pytest.mark.stock
def test_stock_dnspython_refuses_a_whole_answer_for_one_odd_tlsa_record() -> None:
    assert 1 in dns.rdtypes.tlsabase.TLSABase._cert_length_by_mtype


async def test_addresses_of_both_families_alternate(bench: Bench) -> None:
    bench.zone.add("mx.test", "A", "192.0.2.1", "192.0.2.2", "192.0.2.3")
    bench.zone.add("mx.test", "AAAA", "2001:db8::1")
    answer = await bench.resolver().addresses("mx.test")
    found = records(answer)
    assert found[0] == ip_address("2001:db8::1")
    assert set(found[1:]) == {ip_address(f"192.0.2.{n}") for n in (1, 2, 3)}


@pytest.mark.parametrize(
    ("family", "types"), [(IpFamily.IPV4, {"A"}), (IpFamily.IPV6, {"AAAA"}), (IpFamily.ANY, {"A", "AAAA"})]
)
async def test_only_the_family_that_is_set_is_asked_for(bench: Bench, family: IpFamily, types: set[str]) -> None:
    bench.zone.add("mx.test", "A", "192.0.2.1")
    bench.zone.add("mx.test", "AAAA", "2001:db8::1")
    answer = await bench.resolver(ip_family=family).addresses("mx.test")
    assert len(records(answer)) == len(types)
    assert {rdtype for _, rdtype, _ in bench.zone.asked} == types


@pytest.mark.rfc("7672-2.2.2-i")
async def test_one_family_found_is_found_though_the_other_is_unknown(bench: Bench) -> None:
    bench.zone.authentic = True
    bench.zone.add("mx.test", "A", "192.0.2.1")
    bench.zone.rules["mx.test", "AAAA"] = failing(dns.rcode.SERVFAIL)
    answer = await bench.resolver().addresses("mx.test")
    assert records(answer) == [ip_address("192.0.2.1")]
    assert isinstance(answer, Found)
    assert answer.ttl == UNKNOWN_TTL
    assert answer.authentic


async def test_absent_in_one_family_and_unknown_in_the_other_is_unknown(bench: Bench) -> None:
    bench.zone.add("mx.test", "TXT", '"a"')
    bench.zone.rules["mx.test", "AAAA"] = failing(dns.rcode.SERVFAIL)
    assert isinstance(await bench.resolver().addresses("mx.test"), Unknown)


async def test_absent_in_both_families_is_absent(bench: Bench) -> None:
    bench.zone.add("mx.test", "TXT", '"a"')
    resolver = bench.resolver()
    assert await resolver.addresses("mx.test") == Absent(absence=Absence.NODATA, ttl=60 * SECOND)
    assert await resolver.addresses("gone.test") == Absent(absence=Absence.NXDOMAIN, ttl=60 * SECOND)


@pytest.mark.parametrize("name", ["a..b", "", "a" * 64 + ".test", ".".join(["a" * 60] * 5), "\u00fc.test", "x\ud800"])
async def test_a_name_that_cannot_be_in_the_dns_is_absent_and_nothing_is_asked(bench: Bench, name: str) -> None:
    resolver = bench.resolver()
    for answer in (await resolver.txt(name), await resolver.mx(name), await resolver.addresses(name)):
        assert answer == Absent(absence=Absence.NXDOMAIN, ttl=timedelta(0))
    assert bench.zone.asked == []
    assert bench.watcher.seen == []


async def test_the_observer_hears_of_each_question_and_not_of_the_cache(bench: Bench) -> None:
    bench.zone.add("x.test", "MX", "10 mx.x.test.")
    bench.zone.rules["x.test", "TXT"] = failing(dns.rcode.SERVFAIL, 6)
    resolver = bench.resolver(ip_family=IpFamily.IPV4)
    for _ in range(2):
        await resolver.mx("x.test")
        await resolver.txt("x.test")
        await resolver.addresses("x.test")
        await resolver.addresses("gone.test")
    assert bench.watcher.seen == [
        (RecordType.MX, DnsResult.FOUND),
        (RecordType.TXT, DnsResult.BOGUS),
        (RecordType.A, DnsResult.NODATA),
        (RecordType.A, DnsResult.NXDOMAIN),
    ]


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(bench: Bench) -> None:
    bench.zone.add("x.test", "TXT", '"a"')
    asked = asyncio.Event()

    def swallow(query: dns.message.Message) -> None:
        asked.set()

    bench.zone.rules["x.test", "TXT"] = swallow
    resolver = bench.resolver()
    leader = asyncio.create_task(resolver.txt("x.test"))
    follower = asyncio.create_task(resolver.txt("x.test"))
    async with asyncio.timeout(5):
        await asked.wait()
    del bench.zone.rules["x.test", "TXT"]
    leader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leader
    assert records(await follower) == [b"a"]


def test_without_a_name_server_there_is_no_resolver() -> None:
    with pytest.raises(ValueError, match="no name server"):
        DnsResolver(nameservers=[], timer=lambda: 0.0)


def test_the_name_servers_of_the_system(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search evil.test\nnameserver 127.0.0.53\nnameserver ::1\noptions ndots:5\n")
    assert system_nameservers(str(conf)) == (NameServer(address="127.0.0.53"), NameServer(address="::1"))
    assert system_nameservers(str(tmp_path / "none")) == ()


@pytest.mark.rfc("5321-5.1-a")
async def test_no_search_list_is_used(bench: Bench) -> None:
    await bench.resolver().txt("mail")
    assert bench.zone.asked == [("mail", "TXT", "udp")]
