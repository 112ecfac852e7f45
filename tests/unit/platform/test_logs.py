"""What processes print stays bounded while they go on printing."""

import subprocess
import sys

from citybrain.platform.logs import LOG_BYTES, bound_outputs


def test_a_process_that_prints_for_ever_fills_no_disk(tmp_path):
    path = tmp_path / "ray.out"
    code = "import sys\nfor n in range(2):\n for i in range(120): print('x' * 99_999)\n print('end', n, flush=True); input()"
    with path.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=output, stdin=subprocess.PIPE, text=True
        )
    for number in range(2):
        while not path.read_bytes().endswith(f"end {number}\n".encode()):
            assert process.poll() is None
        bound_outputs(tmp_path)
        assert path.stat().st_size == 0
        assert path.stat().st_blocks * 512 < LOG_BYTES, "it appends: no hole grows in front"
        kept = tmp_path / "ray.out.1"
        assert kept.read_bytes().endswith(f"end {number}\n".encode())
        assert kept.stat().st_size <= LOG_BYTES
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.wait(10) == 0


def test_a_short_one_is_left_alone(tmp_path):
    (tmp_path / "control.out").write_bytes(b"hello")
    bound_outputs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["control.out"]
