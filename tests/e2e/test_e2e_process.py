"""The process: start, stop, reload, a second start, a bad config, health."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import time
from pathlib import Path

from e2e_scene import QUICK_RETRIES, Scene, is_event

from relay.lab.ca import CertificateKind
from relay.lab.client import SmtpClient, submit
from relay.lab.gate import Gate
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import Answer, MxBehaviour, Phase
from relay.lab.policy_host import PolicySite


async def test_sigterm_breaks_off_what_is_before_the_final_dot_uncharged(scene: Scene, lab: Lab) -> None:
    gate = Gate()
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, MxBehaviour(replies={Phase.RCPT: Answer(gate=gate)}))])
    async with scene.relay as relay:
        queue_id = await scene.send("bob@shop.test")
        await gate.arrivals.wait_for(1)
        began = time.monotonic()
        relay.send_signal(signal.SIGTERM)
        assert await relay.wait() == 0
        assert time.monotonic() - began < 15
        await relay.wait_for(is_event("delivery.broken_off", queue_id=queue_id))
    (entry,) = await scene.cli_json("queue", "show", queue_id)
    assert (entry["state"], entry["attempts"], entry["attempts_made"]) == ("queued", 0, [])
    lab.hosts["mx1.shop.test"].behaviour = MxBehaviour()
    async with scene.relay:
        await lab.hosts["mx1.shop.test"].wait_for_messages(1)


async def test_sigterm_awaits_the_answer_to_the_final_dot(scene: Scene, lab: Lab) -> None:
    gate = Gate()
    await lab.domain(
        "shop.test", mx=[("mx1.shop.test", 10, MxBehaviour(replies={Phase.END_OF_DATA: Answer(gate=gate)}))]
    )
    async with scene.relay as relay:
        queue_id = await scene.send("bob@shop.test")
        await gate.arrivals.wait_for(1)
        relay.send_signal(signal.SIGTERM)
        await relay.wait_for(is_event("relay.stopping"))
        gate.open()
        assert await relay.wait() == 0
        await scene.settled(queue_id, "delivered")
    async with scene.relay:
        (entry,) = await scene.cli_json("queue", "show", queue_id)
        assert entry["state"] == "delivered"
    assert len(lab.hosts["mx1.shop.test"].messages) == 1


async def test_sigterm_ends_within_stop_timeout_whatever_the_host_does(scene: Scene, lab: Lab) -> None:
    gate = Gate()
    await lab.domain(
        "shop.test", mx=[("mx1.shop.test", 10, MxBehaviour(replies={Phase.END_OF_DATA: Answer(gate=gate)}))]
    )
    scene.configure(QUICK_RETRIES, replace=("[relay]", '[relay]\nstop_timeout = "3s"'))
    async with scene.relay as relay:
        await scene.send("bob@shop.test")
        await gate.arrivals.wait_for(1)
        began = time.monotonic()
        relay.send_signal(signal.SIGTERM)
        assert await relay.wait() == 0
        assert time.monotonic() - began < 6


async def test_idle_sessions_are_told_that_the_relay_stops(scene: Scene) -> None:
    async with scene.relay as relay, SmtpClient(relay.smtp) as client:
        await client.connect()
        await client.command("EHLO client.legacy.test")
        relay.send_signal(signal.SIGTERM)
        assert str(await client.reply()).startswith("421 4.3.2 ")
        assert await client.at_eof()
        assert await relay.wait() == 0


async def test_sighup_applies_settings_and_names_what_needs_a_restart(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    async with scene.relay as relay:
        assert (await scene.offer("bob@shop.test")).accepted
        scene.configure(
            QUICK_RETRIES + '[access]\nnetworks = ["192.0.2.0/24"]\n[store]\nmin_free_disk = "1MiB"\n',
            replace=('"127.0.0.1:0"', '"127.0.0.2:0"'),
        )
        relay.send_signal(signal.SIGHUP)
        told = await relay.wait_for(is_event("config.reloaded"))
        assert told["need_restart"] == "listener addresses, store.min_free_disk, http.address"
        assert str((await scene.offer("bob@shop.test")).mail).startswith("550 5.7.64 ")


async def test_sighup_changes_how_mail_is_delivered(scene: Scene, lab: Lab) -> None:
    await lab.domain(
        "shop.test",
        mx=[("mx1.shop.test", 10, MxBehaviour(certificate=CertificateKind.SELF_SIGNED))],
        policy=PolicySite(mode="enforce", mx=("mx1.shop.test",)),
    )
    async with scene.relay as relay:
        refused = await scene.send("bob@shop.test")
        await scene.settled(refused, "deferred")
        scene.configure(QUICK_RETRIES + '[mta_sts]\nmode = "report-only"\n')
        relay.send_signal(signal.SIGHUP)
        await scene.settled(refused, "delivered")


async def test_sighup_with_a_bad_file_keeps_the_old_settings_and_says_so(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    async with scene.relay as relay:
        scene.configure('[queue]\nretry = ["soon"]\n[nonsense]\n')
        relay.send_signal(signal.SIGHUP)
        told = await relay.wait_for(is_event("config.rejected"))
        assert "queue.retry[1]: must be a duration" in told["problems"]
        assert "nonsense: unknown table" in told["problems"]
        await scene.settled(await scene.send("bob@shop.test"), "delivered")


async def test_sighup_reads_the_listeners_certificate_again(scene: Scene, lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "listener.pem"
    shutil.copy(lab.ca.identity(CertificateKind.GOOD, "old.legacy.test").pem_file, file)
    tls = f'address = "127.0.0.1:0"\ntls = "starttls"\ncertificate = "{file}"\nkey = "{file}"'
    scene.configure(QUICK_RETRIES, replace=('[[listener]]\naddress = "127.0.0.1:0"', f"[[listener]]\n{tls}"))
    context = ssl.create_default_context(cafile=str(lab.ca_file))
    async with scene.relay as relay:
        await _greet_with_tls(relay.smtp, context, "old.legacy.test")
        _, text = await scene.http("/metrics")
        assert "mta_sts_relay_listener_certificate_expiry_timestamp_seconds{" in text
        shutil.copy(lab.ca.identity(CertificateKind.GOOD, "new.legacy.test").pem_file, file)
        relay.send_signal(signal.SIGHUP)
        await relay.wait_for(is_event("config.reloaded"))
        await _greet_with_tls(relay.smtp, context, "new.legacy.test")


async def _greet_with_tls(address: str, context: ssl.SSLContext, name: str) -> None:
    async with SmtpClient(address) as client:
        await client.connect()
        await client.command("EHLO client.legacy.test")
        await client.start_tls(context, name)
        assert (await client.command("EHLO client.legacy.test")).code == 250


async def test_a_second_start_says_who_is_there(scene: Scene) -> None:
    async with scene.relay as relay:
        status, _, err = await scene.cli("serve")
        assert status == 1
        assert f"state is in use by process {relay.pid}" in err
        assert (await scene.http("/readyz"))[0] == 200


async def test_an_address_in_use_is_named(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = '[[listener]]\naddress = "127.0.0.1:'
        scene.configure(replace=(f'{listener}0"', f'{listener}{port}"'))
        status, _, err = await scene.cli("serve")
    assert status == 1
    assert "relay.start_failed" in err
    assert f"('127.0.0.1', {port})" in err


async def test_a_bad_config_is_told_at_once_and_in_full(scene: Scene) -> None:
    scene.config.write_text('[relay]\nworkers = 30\n[[listener]]\ntls = "implicit"\n[log]\nlevel = "loud"\n')
    status, out, err = await scene.cli("serve")
    assert (status, out) == (2, "")
    assert [line.partition("config.toml: ")[2] for line in err.splitlines()] == [
        "line 2: relay.workers: must be at most delivery.max_connections_per_destination, as each needs one of them",
        'line 3: listener[1].certificate: is needed with tls = "implicit"',
        'line 3: listener[1].key: is needed with tls = "implicit"',
        "line 6: log.level: must be 'debug', 'info', 'warning' or 'error'",
    ]


async def test_a_full_disk_makes_it_unready_and_mail_is_put_off(scene: Scene) -> None:
    scene.configure('[store]\nmin_free_disk = "900TiB"\n')
    async with scene.relay:
        assert await scene.http("/healthz") == (200, "alive\n")
        assert await scene.http("/readyz") == (503, "store: less disk is free than store.min_free_disk\n")
        offered = await scene.offer("bob@shop.test")
    replies = [offered.mail, *offered.recipients, *([offered.data] if offered.data else [])]
    assert any(str(reply).startswith("452 4.3.1 ") for reply in replies)


async def test_a_foreign_queue_file_stops_the_start(scene: Scene) -> None:
    (scene.directory / "state").mkdir()
    (scene.directory / "state/queue-0.db").write_bytes(b"not a database, but long enough to look at" * 100)
    status, _, err = await scene.cli("serve")
    assert status == 1
    assert "queue-0.db" in err


async def test_the_service_manager_hears_of_start_watchdog_reload_and_stop(scene: Scene, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        watch = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        scene.relay.environ = {**os.environ, **watch}
        loop = asyncio.get_running_loop()

        async def hear(wanted: bytes) -> None:
            async with asyncio.timeout(10):
                while await loop.sock_recv(manager, 100) != wanted:
                    pass

        async with scene.relay as relay:
            await hear(b"READY=1")
            await hear(b"WATCHDOG=1")
            relay.send_signal(signal.SIGHUP)
            await hear(b"RELOADING=1")
            await hear(b"READY=1")
            relay.send_signal(signal.SIGTERM)
            await hear(b"STOPPING=1")
            assert await relay.wait() == 0


async def test_a_client_that_hangs_up_loses_nothing_that_was_answered(scene: Scene, lab: Lab) -> None:
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    async with scene.relay as relay:
        done = await submit(relay.smtp, "a@legacy.test", ["bob@shop.test"], b"Subject: x\r\n\r\nx\r\n")
        assert done.accepted
        await relay.kill()
    async with scene.relay:
        await lab.hosts["mx1.shop.test"].wait_for_messages(1, 20)
