"""Two machines on one wire: network namespaces joined by a veth pair, with no route elsewhere."""

import json
import shutil
import subprocess
import sys

import pytest

HUB, SITE = "10.77.0.1", "10.77.0.2"
# Holds the hub's namespace, and inside the same user namespace the site's.
_HOLD = f"""
set -e
ip link set lo up
unshare --net sleep 3600 &
inner=$!
for i in $(seq 200); do
  [ "$(readlink /proc/$inner/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break
  sleep 0.02
done
ip link add hub type veth peer name site netns $inner
ip addr add {HUB}/24 dev hub && ip link set hub up
nsenter -t $inner --net sh -c \\
  'ip link set lo up; ip addr add {SITE}/24 dev site; ip link set site up'
echo $inner
wait
"""
# Prints every connection attempt that crosses the wire: [source, destination, port] of TCP SYNs,
# and [source, destination, protocol] of anything that is not TCP over IPv4 to the other machine.
_WATCH = """
import json, socket, struct, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0003))
wire.bind(("site", 0))
print("watching", flush=True)
while True:
    try:
        frame, (_, kind, *_) = wire.recvfrom(65535)
    except OSError:
        continue  # the cable was pulled
    if kind != 0x0800:
        continue  # ARP and IPv6 neighbour discovery stay on the wire
    packet = frame[14:]
    head = (packet[0] & 15) * 4
    source, target = (socket.inet_ntoa(packet[i : i + 4]) for i in (12, 16))
    if packet[9] != socket.IPPROTO_TCP:
        print(json.dumps([source, target, -packet[9]]), flush=True)
    elif packet[head + 13] & 0x12 == 0x02:
        port = struct.unpack(">H", packet[head + 2 : head + 4])[0]
        print(json.dumps([source, target, port]), flush=True)
"""


class Wire:
    """The coordinator's and the hospital's namespace; what runs in each starts with its prefix."""

    def __enter__(self):
        if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
            pytest.skip("unshare, nsenter or ip is missing")
        self._holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--net", "--kill-child", "sh", "-c", _HOLD],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        inner = self._holder.stdout.readline().strip()
        if not inner:
            said = self._holder.stderr.read()
            self._stop(self._holder)
            pytest.skip(f"this machine allows no veth pair: {said}")
        outer = self._enter(self._holder.pid)
        self.hub = outer
        self.site = [*outer, "nsenter", "-t", inner, "--net", "--"]
        self._inner = inner
        self._watcher = subprocess.Popen(
            [*self.site, sys.executable, "-c", _WATCH], stdout=subprocess.PIPE, text=True
        )
        assert self._watcher.stdout.readline() == "watching\n"
        return self

    @staticmethod
    def _enter(pid):
        return ["nsenter", "-t", str(pid), "--user", "--net", "--preserve-credentials", "--"]

    def __exit__(self, *_):
        self._stop(self._watcher)
        subprocess.run([*self.hub, "kill", self._inner], check=False)
        self._stop(self._holder)

    def in_site(self, *words):
        """Run a command in the hospital; returns its exit status."""
        return subprocess.run([*self.site, *words], check=False, capture_output=True).returncode

    def attempts(self):
        """End the watch; returns the set of (source, destination, port or minus protocol)."""
        self._watcher.terminate()
        return {tuple(json.loads(line)) for line in self._watcher.stdout.read().splitlines()}

    @staticmethod
    def _stop(process):
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
