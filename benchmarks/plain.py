"""What one writes first: an endpoint that decodes, crops and runs one image at a time, in threads.

    MODEL=file.onnx PORT=8001 python -m benchmarks.plain

The measure of what batching, admission and the rest cost and gain: benchmarks/serve.py --plain drives it
beside the service, with the same file, photographs, loads and machine.
"""

import io
import json
import os
import socket
from typing import Any

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

app = FastAPI()
session = ort.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["alexnet"])["classes"]


def classified(body: bytes) -> dict[str, Any]:
    image = Image.open(io.BytesIO(body)).convert("RGB")
    shorter = min(image.size)
    image = image.resize((image.width * 256 // shorter, image.height * 256 // shorter))
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))
    probabilities = session.run(["probabilities"], {"images": pixels[None]})[0][0]
    best = np.argsort(-probabilities)[:5]
    return {"predictions": [{"label": classes[i], "probability": float(probabilities[i])} for i in best]}


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    return await run_in_threadpool(classified, await request.body())


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "8001"))), backlog=2048)
    print(f"plain on http://127.0.0.1:{listener.getsockname()[1]} ", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
