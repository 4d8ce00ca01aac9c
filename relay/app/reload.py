"""What a reload of the settings can change, and what has to wait for a restart."""

from collections.abc import Callable, Iterator

from relay.config import Settings

_NEED_RESTART: dict[str, Callable[[Settings], object]] = {
    "relay.state_dir": lambda s: s.relay.state_dir,
    "relay.workers": lambda s: s.relay.workers,
    "listener addresses": lambda s: tuple(sorted(one.address for one in s.listener)),
    "store.url": lambda s: s.store.url,
    "store.min_free_disk": lambda s: s.store.min_free_disk,
    "http.address": lambda s: s.http.address,
    "http.hosts": lambda s: s.http.hosts,
}


def kept(old: Settings, new: Settings) -> Settings:
    """Return the new settings, with those that have to wait for a restart as they are."""
    listeners = {one.address: one for one in new.listener}
    return new.model_copy(
        update={
            "relay": new.relay.model_copy(update={"state_dir": old.relay.state_dir, "workers": old.relay.workers}),
            "listener": tuple(listeners.get(one.address, one) for one in old.listener),
            "store": old.store,
            "http": old.http,
        }
    )


def need_restart(old: Settings, new: Settings) -> Iterator[str]:
    """Yield the names of the settings that differ and stay as they were until a restart."""
    for name, setting in _NEED_RESTART.items():
        if setting(old) != setting(new):
            yield name
