"""Sockets that systemd kept or hands over, taken by the listeners that ask for their address."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chatd.systemd import Notifier, PassedDescriptor
from chatd.wire.inherited import Inherited, kept_name
from chatd.wire.listener import Listener, ListenError, open_listeners
from tests.e2e.chatd_process import free_port


class Manager(Notifier):
    """A service's manager: keeps descriptors by name, for the next start."""

    def __init__(self) -> None:
        super().__init__({})
        self.kept: dict[str, int] = {}
        self.forgotten: list[str] = []
        self.barriers = 0

    def store(self, descriptor: int, name: str) -> bool:
        self.kept[name] = os.dup(descriptor)
        return True

    def forget(self, name: str) -> bool:
        os.close(self.kept.pop(name))
        self.forgotten.append(name)
        return True

    def barrier(self, seconds: float = 0) -> bool:
        del seconds
        self.barriers += 1
        return True

    def start(self, *of_units: socket.socket) -> Inherited:
        """Hand everything over, as to a process that begins."""
        passed = [PassedDescriptor(os.dup(sock.fileno()), "chatd.socket") for sock in of_units]
        passed += [PassedDescriptor(os.dup(number), name) for name, number in self.kept.items()]
        return Inherited(passed, self)


@pytest.fixture
def manager() -> Iterator[Manager]:
    manager = Manager()
    yield manager
    for number in manager.kept.values():
        os.close(number)


def life(manager: Manager, *addresses: str, mode: int = 0o666) -> list[Listener]:
    """Open as a start does, and have all kept."""
    inherited = manager.start()
    listeners = open_listeners(addresses, mode, inherited)
    inherited.close()
    for listener in listeners:
        listener.keep(manager)
    return listeners


def end(listeners: list[Listener]) -> None:
    for listener in listeners:
        listener.close()


def test_a_client_that_connects_between_two_runs_is_served_by_the_second(manager: Manager) -> None:
    port = free_port()
    end(life(manager, f"localhost:{port}"))
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"hello")
        second = life(manager, f"localhost:{port}")
        assert second[0].address == f"127.0.0.1:{port}"
        accepted, _ = second[0].socket.accept()
        with accepted:
            assert accepted.recv(10) == b"hello"
    assert manager.forgotten == []
    end(second)


def test_a_unix_socket_is_kept_with_its_file(manager: Manager, tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    end(life(manager, f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        second = life(manager, f"unix:{path}", mode=0o600)
        assert second[0].path == path
        second[0].socket.accept()[0].close()
    # The configured mode also applies to an inherited socket.
    assert path.stat().st_mode & 0o777 == 0o600
    assert manager.forgotten == []
    end(second)
    assert path.exists()


def test_a_unix_socket_without_its_file_is_bound_again(manager: Manager, tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    end(life(manager, f"unix:{path}"))
    (first,) = manager.kept
    path.unlink()
    second = life(manager, f"unix:{path}")
    assert manager.forgotten == [first]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    end(second)


def test_another_programs_socket_under_the_path_is_left_alone(
    manager: Manager, tmp_path: Path
) -> None:
    path = tmp_path / "chat.sock"
    end(life(manager, f"unix:{path}"))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match="another program listens there"):
            life(manager, f"unix:{path}")
        assert path.exists()


def test_a_changed_address_frees_the_old_one_first(manager: Manager) -> None:
    port = free_port()
    end(life(manager, f"127.0.0.1:{port}"))
    # It could not be bound while the narrower one is open.
    with pytest.raises(ListenError, match="in use"):
        open_listeners([f"0.0.0.0:{port}"])
    second = life(manager, f"0.0.0.0:{port}")
    assert manager.forgotten == [f"listener-127.0.0.1-{port}"]
    assert manager.barriers == 1
    assert list(manager.kept) == [f"listener-0.0.0.0-{port}"]
    end(second)


def test_a_port_that_the_kernel_chose_is_not_kept(manager: Manager) -> None:
    end(life(manager, "127.0.0.1:0"))
    assert manager.kept == {}


def test_names_are_such_that_systemd_takes_them() -> None:
    assert kept_name((socket.AF_INET6, ("::1", 3000))) == "listener-__1-3000"
    assert kept_name((socket.AF_UNIX, "/nobody/is/here")) is None


# ---- sockets of a unit


def test_a_units_sockets_are_taken_and_never_kept(manager: Manager, tmp_path: Path) -> None:
    path = tmp_path / "unit.sock"
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(path))
        unix.listen()
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0{path}")
        abstract.listen()
        listeners = open_listeners(["systemd:"], 0o600, manager.start(tcp, unix, abstract))
        assert [listener.address for listener in listeners] == [
            f"127.0.0.1:{tcp.getsockname()[1]}",
            f"unix:{path}",
            f"unix:@{path}",
        ]
        for listener in listeners:
            listener.keep(manager)
        end(listeners)
        assert manager.kept == {}
        assert path.exists()
        assert path.stat().st_mode & 0o777 != 0o600


def test_an_address_that_a_unit_has_is_taken_from_it(manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        port = tcp.getsockname()[1]
        unix.bind("")  # a name of the kernel's choice
        unix.listen()
        for addresses in (["127.0.0.1:0", f"127.0.0.1:{port}"], ["systemd:", f"127.0.0.1:{port}"]):
            inherited = manager.start(tcp, unix)
            listeners = open_listeners(addresses, inherited=inherited)
            assert f"127.0.0.1:{port}" in [listener.address for listener in listeners]
            assert len(inherited.of_units) == (0 if "systemd:" in addresses else 1)
            inherited.close()
            end(listeners)


def test_a_unit_without_sockets_is_reported(manager: Manager) -> None:
    with pytest.raises(ListenError, match=r"enable the \.socket unit"):
        open_listeners(["systemd:"], inherited=manager.start())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_only_listening_streams_are_taken(manager: Manager, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        with pytest.raises(ListenError, match="Accept=no"):
            open_listeners(["systemd:"], inherited=manager.start(other))


def test_a_descriptor_that_is_no_socket_is_an_error() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="socket"):
            Inherited([PassedDescriptor(reading, "chatd.socket")])
    finally:
        os.close(reading)
        os.close(writing)
