"""The lab's name server, asked by dnspython."""

import asyncio

import dns.asyncquery
import dns.asyncresolver
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from relay.lab.dns import DnsFault
from relay.lab.internet import Lab


async def ask(
    lab: Lab, name: str, rdtype: str, *, tcp: bool = False, ad: bool = False, edns: int | None = None
) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, use_edns=0 if edns else None, payload=edns or 0)
    if ad:
        query.flags |= dns.flags.AD
    host, _, port = lab.nameserver.rpartition(":")
    exchange = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await exchange(query, host, port=int(port), timeout=5)


def answers(response: dns.message.Message) -> list[str]:
    return [line for rrset in response.answer for line in rrset.to_text().splitlines()]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_answers_with_records(lab: Lab, tcp: bool) -> None:
    lab.dns.mx("shop.test", (10, "mx1.shop.test"), (20, "mx2.shop.test"), ttl=60)
    response = await ask(lab, "Shop.TEST", "MX", tcp=tcp)
    assert sorted(line.lower() for line in answers(response)) == [
        "shop.test. 60 in mx 10 mx1.shop.test.",
        "shop.test. 60 in mx 20 mx2.shop.test.",
    ]
    assert response.flags & dns.flags.RA
    assert lab.dns.queries == [("shop.test", "MX")]
    assert lab.dns.tcp_queries == ([("shop.test", "MX")] if tcp else [])


async def test_every_type_that_a_relay_asks_for(lab: Lab) -> None:
    lab.dns.null_mx("none.test")
    lab.dns.a("host.test", "127.0.0.9")
    lab.dns.aaaa("host.test", "::1")
    lab.dns.txt("_mta-sts.host.test", ("v=STSv1; id=2016", '0831"\\é'), "other")
    lab.dns.set("_25._tcp.host.test", "TLSA", "3 1 1 " + "ab" * 32)
    assert answers(await ask(lab, "none.test", "MX")) == ["none.test. 0 IN MX 0 ."]
    assert answers(await ask(lab, "host.test", "A")) == ["host.test. 0 IN A 127.0.0.9"]
    assert answers(await ask(lab, "host.test", "AAAA")) == ["host.test. 0 IN AAAA ::1"]
    assert answers(await ask(lab, "_25._tcp.host.test", "TLSA")) == ["_25._tcp.host.test. 0 IN TLSA 3 1 1 " + "ab" * 32]
    texts = (await ask(lab, "_mta-sts.host.test", "TXT")).answer[0]
    assert {record.strings for record in texts} == {(b"v=STSv1; id=2016", '0831"\\é'.encode()), (b"other",)}


async def test_absence_has_two_forms_and_a_soa(lab: Lab) -> None:
    lab.dns.a("mail.shop.test", "127.0.0.9")
    nodata = await ask(lab, "mail.shop.test", "MX")
    between = await ask(lab, "shop.test", "A")  # an empty non-terminal exists
    nxdomain = await ask(lab, "other.shop.test", "A")
    assert [one.rcode() for one in (nodata, between, nxdomain)] == [
        dns.rcode.NOERROR,
        dns.rcode.NOERROR,
        dns.rcode.NXDOMAIN,
    ]
    assert all(not one.answer for one in (nodata, between, nxdomain))
    assert all(one.authority[0].rdtype == dns.rdatatype.SOA for one in (nodata, between, nxdomain))


async def test_a_removed_record_is_gone(lab: Lab) -> None:
    lab.dns.txt("_mta-sts.shop.test", "v=STSv1; id=1;")
    lab.dns.remove("_mta-sts.shop.test", "TXT")
    lab.dns.remove("_mta-sts.shop.test")
    assert (await ask(lab, "_mta-sts.shop.test", "TXT")).rcode() == dns.rcode.NXDOMAIN


async def test_aliases_are_followed(lab: Lab) -> None:
    lab.dns.cname("a.test", "b.test")
    lab.dns.cname("b.test", "c.test")
    lab.dns.txt("c.test", "here")
    assert answers(await ask(lab, "a.test", "TXT")) == [
        "a.test. 0 IN CNAME b.test.",
        "b.test. 0 IN CNAME c.test.",
        'c.test. 0 IN TXT "here"',
    ]
    assert answers(await ask(lab, "a.test", "CNAME")) == ["a.test. 0 IN CNAME b.test."]


async def test_an_alias_to_nothing_is_nxdomain(lab: Lab) -> None:
    lab.dns.cname("a.test", "nowhere.test")
    response = await ask(lab, "a.test", "TXT")
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert len(response.answer) == 1


async def test_a_loop_of_aliases_ends_in_servfail(lab: Lab) -> None:
    lab.dns.cname("a.test", "b.test")
    lab.dns.cname("b.test", "a.test")
    assert (await ask(lab, "a.test", "TXT")).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("fault", "rcode", "records"),
    [
        (DnsFault.SERVFAIL, dns.rcode.SERVFAIL, 0),
        (DnsFault.REFUSED, dns.rcode.REFUSED, 0),
        (DnsFault.NXDOMAIN, dns.rcode.NXDOMAIN, 0),
        (DnsFault.NODATA, dns.rcode.NOERROR, 0),
        (None, dns.rcode.NOERROR, 1),
    ],
)
async def test_faults_stand_in_place_of_records(
    lab: Lab, fault: DnsFault | None, rcode: dns.rcode.Rcode, records: int
) -> None:
    lab.dns.a("shop.test", "127.0.0.9")
    lab.dns.override("shop.test", "A", DnsFault.SERVFAIL)
    lab.dns.override("shop.test", "A", fault)
    response = await ask(lab, "shop.test", "A")
    assert (response.rcode(), len(response.answer)) == (rcode, records)


async def test_a_fault_may_strike_one_type_or_all(lab: Lab) -> None:
    lab.dns.override("one.test", "MX", DnsFault.REFUSED)
    lab.dns.override("all.test", None, DnsFault.REFUSED)
    asked = [("one.test", "MX"), ("one.test", "A"), ("all.test", "MX"), ("all.test", "A")]
    refused = [(await ask(lab, *one)).rcode() == dns.rcode.REFUSED for one in asked]
    assert refused == [True, False, True, True]


async def test_silence(lab: Lab) -> None:
    lab.dns.override("shop.test", None, DnsFault.TIMEOUT)
    asking = asyncio.create_task(ask(lab, "shop.test", "A"))
    await lab.dns.queries.wait_for(1)
    lab.dns.a("other.test", "127.0.0.9")
    assert (await ask(lab, "other.test", "A")).answer
    assert not asking.done()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_garbage(lab: Lab) -> None:
    lab.dns.override("shop.test", None, DnsFault.GARBAGE)
    with pytest.raises(dns.exception.DNSException):
        await ask(lab, "shop.test", "A")


async def test_an_override_writes_its_own_bytes(lab: Lab) -> None:
    def forged(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.YXDOMAIN)
        return response.to_wire()

    lab.dns.override("shop.test", "A", forged)
    assert (await ask(lab, "shop.test", "A")).rcode() == dns.rcode.YXDOMAIN


async def test_truncated_over_udp_whole_over_tcp(lab: Lab) -> None:
    lab.dns.txt("shop.test", "text")
    lab.dns.override("shop.test", "TXT", DnsFault.TRUNCATED)
    short = await ask(lab, "shop.test", "TXT")
    whole = await ask(lab, "shop.test", "TXT", tcp=True)
    assert short.flags & dns.flags.TC
    assert not short.answer
    assert answers(whole) == ['shop.test. 0 IN TXT "text"']


@pytest.mark.parametrize(("edns", "fits"), [(None, False), (1232, True)])
async def test_an_answer_too_large_for_its_datagram_is_truncated(lab: Lab, edns: int | None, fits: bool) -> None:
    lab.dns.txt("shop.test", ("x" * 250, "y" * 250, "z" * 100))
    response = await ask(lab, "shop.test", "TXT", edns=edns)
    assert bool(response.flags & dns.flags.TC) is not fits
    assert bool(response.answer) is fits


@pytest.mark.parametrize(
    ("name", "ask_ad", "authentic"),
    [("a.signed.test", True, True), ("a.signed.test", False, False), ("a.unsigned.test", True, False)],
)
async def test_ad_for_signed_domains_where_it_is_asked_for(lab: Lab, name: str, ask_ad: bool, authentic: bool) -> None:
    lab.dns.sign("signed.test")
    lab.dns.a(name, "127.0.0.9")
    assert bool((await ask(lab, name, "A", ad=ask_ad)).flags & dns.flags.AD) is authentic


@pytest.mark.parametrize(("target", "authentic"), [("b.signed.test", True), ("b.unsigned.test", False)])
async def test_an_alias_is_as_secure_as_all_that_it_leads_to(lab: Lab, target: str, authentic: bool) -> None:
    lab.dns.sign("signed.test")
    lab.dns.cname("a.signed.test", target)
    lab.dns.a(target, "127.0.0.9")
    assert bool((await ask(lab, "a.signed.test", "A", ad=True)).flags & dns.flags.AD) is authentic


async def test_a_bogus_answer_is_servfail_and_says_so(lab: Lab) -> None:
    lab.dns.tlsa("mx.shop.test", f"3 1 1 {'00' * 32}")
    assert len((await ask(lab, "_25._tcp.mx.shop.test", "TLSA")).answer) == 1
    lab.dns.override("_25._tcp.mx.shop.test", "TLSA", DnsFault.BOGUS)
    response = await ask(lab, "_25._tcp.mx.shop.test", "TLSA")
    assert response.rcode() == dns.rcode.SERVFAIL
    assert [option.code for option in response.options if isinstance(option, dns.edns.EDEOption)] == [6]


async def test_a_stub_resolver_works_with_it(lab: Lab) -> None:
    lab.dns.mx("shop.test", (10, "mx.shop.test"))
    resolver = dns.asyncresolver.Resolver(configure=False)
    host, _, port = lab.nameserver.rpartition(":")
    resolver.nameservers, resolver.port = [host], int(port)
    assert [record.to_text() for record in await resolver.resolve("shop.test", "MX")] == ["10 mx.shop.test."]


async def test_bytes_that_are_no_query_are_passed_over(lab: Lab) -> None:
    assert lab.dns.answer(b"\x00\x01", tcp=False) is None
    assert lab.dns.answer(dns.message.Message().to_wire(), tcp=False) is None


async def test_tcp_questions_in_pieces_and_in_a_row(lab: Lab) -> None:
    lab.dns.a("shop.test", "127.0.0.9")
    wire = dns.message.make_query("shop.test", "A").to_wire()
    framed = len(wire).to_bytes(2, "big") + wire
    host, _, port = lab.nameserver.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(5):
        writer.write(framed + framed[:7])
        first = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        writer.write(framed[7:])
        second = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        assert dns.message.from_wire(first).answer == dns.message.from_wire(second).answer
        writer.write(b"\xff\xff")  # a query of 64 KiB is nobody's
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
