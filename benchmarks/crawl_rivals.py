"""What lavic's crawl is compared with; run by ``crawl.py`` in an environment of their own, without lavic.

    python crawl_rivals.py SIDE JOB

JOB is a JSON text: ``urls`` (a file, one address a line), ``folder``, ``shrinks``, ``longest_side``, ``quality``,
``threads``, ``processes``. Prints ``{"pictures": N, "seconds": S}``; starting Python and its libraries is not counted.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_LOCAL = threading.local()


def one(url: str, number: int, job: dict[str, Any]) -> int:
    """Download, decode, maybe shrink and encode, write: the published script's way, with a session per thread."""
    import requests
    from PIL import Image

    if not hasattr(_LOCAL, "session"):
        _LOCAL.session = requests.Session()
        _LOCAL.session.trust_env = False
    response = _LOCAL.session.get(url, timeout=30)
    if response.status_code != 200:
        return 0
    path = Path(job["folder"]) / f"{number}.jpg"
    image = Image.open(io.BytesIO(response.content)).convert("RGB")
    if not job["shrinks"]:
        path.write_bytes(response.content)
        return 1
    if max(image.size) > job["longest_side"]:
        scale = job["longest_side"] / max(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.HAMMING)
    image.save(path, "JPEG", quality=job["quality"])
    return 1


def with_requests(job: dict[str, Any], workers: int) -> dict[str, float]:
    """One after another, or with a pool of threads."""
    import PIL.Image
    import requests  # noqa: F401, loaded before the clock starts

    PIL.Image.init()
    urls = Path(job["urls"]).read_text().split()
    Path(job["folder"]).mkdir(parents=True)
    begun = time.perf_counter()
    if workers == 1:
        pictures = sum(one(url, number, job) for number, url in enumerate(urls))
    else:
        with ThreadPoolExecutor(workers) as pool:
            pictures = sum(pool.map(lambda pair: one(pair[1], pair[0], job), enumerate(urls)))
    return {"pictures": pictures, "seconds": time.perf_counter() - begun}


def with_img2dataset(job: dict[str, Any]) -> dict[str, float]:
    """As its own statistics have it: from the start of the first shard to the end of the last."""
    from img2dataset import download

    count = len(Path(job["urls"]).read_text().split())
    processes = job["processes"]
    download(
        url_list=job["urls"],
        input_format="txt",
        output_folder=job["folder"],
        output_format="files",
        image_size=job["longest_side"],
        resize_mode="keep_ratio_largest" if job["shrinks"] else "no",
        skip_reencode=not job["shrinks"],
        resize_only_if_bigger=True,
        encode_quality=job["quality"],
        processes_count=processes,
        thread_count=job["threads"],
        # Two shards a process: starting one costs it some time, and the last should not wait for one alone.
        number_sample_per_shard=max(1, -(-count // (2 * processes))),
        timeout=30,
        enable_wandb=False,
    )
    shards = [json.loads(path.read_text()) for path in Path(job["folder"]).glob("*_stats.json")]
    seconds = max(shard["end_time"] for shard in shards) - min(shard["start_time"] for shard in shards)
    return {"pictures": sum(shard["successes"] for shard in shards), "seconds": seconds}


def main() -> None:
    """Command line."""
    side, job = sys.argv[1], json.loads(sys.argv[2])
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # img2dataset and its processes print
    if side == "img2dataset":
        result = with_img2dataset(job)
    else:
        result = with_requests(job, 1 if side == "one" else job["threads"])
    with output:
        output.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
