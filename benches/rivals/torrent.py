"""libtorrent as a rival: TCP between two processes that are told of each other, and nothing else.

torrent.py seed TORRENT FILE PORT           writes TORRENT, says "ready", serves until stdin ends
torrent.py leech TORRENT DIR PORT SEED_PORT says "ready", fetches at a line on stdin, says "done"
"""
import os
import sys

import libtorrent


def say(word):
    print(word, flush=True)


def session(port):
    return libtorrent.session({
        "listen_interfaces": f"127.0.0.1:{port}",
        "alert_mask": libtorrent.alert.category_t.status_notification,
        "allow_multiple_connections_per_ip": True,
        "enable_dht": False,
        "enable_incoming_utp": False,
        "enable_lsd": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": False,
        "enable_upnp": False,
    })


def parameters(torrent, directory):
    added = libtorrent.add_torrent_params()
    added.ti = libtorrent.torrent_info(torrent)
    added.save_path = directory
    added.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    return added


def seed(torrent, file, port):
    files = libtorrent.file_storage()
    libtorrent.add_files(files, file)
    made = libtorrent.create_torrent(files, 0, libtorrent.create_torrent.v1_only)
    directory = os.path.dirname(file)
    libtorrent.set_piece_hashes(made, directory)
    with open(torrent, "wb") as out:
        out.write(libtorrent.bencode(made.generate()))
    serving = session(port)
    added = parameters(torrent, directory)
    added.flags |= libtorrent.torrent_flags.seed_mode
    serving.add_torrent(added)
    say("ready")
    sys.stdin.read()


def leech(torrent, directory, port, seed_port):
    fetching = session(port)
    added = parameters(torrent, directory)
    say("ready")
    if not sys.stdin.readline():
        return
    handle = fetching.add_torrent(added)
    handle.connect_peer(("127.0.0.1", int(seed_port)))
    while not handle.status().is_seeding:
        fetching.wait_for_alert(1000)
        for alert in fetching.pop_alerts():
            # The files of a fresh directory are looked at first, and peers forgotten meanwhile.
            if isinstance(alert, libtorrent.torrent_checked_alert):
                handle.connect_peer(("127.0.0.1", int(seed_port)))
    say("done")
    sys.stdin.read()


if __name__ == "__main__":
    {"seed": seed, "leech": leech}[sys.argv[1]](*sys.argv[2:])
