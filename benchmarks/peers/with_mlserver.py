"""Serve with MLServer: two processes that decode and run batches; pictures are sent in base64."""

import asyncio
import base64
import json
import os

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.peers.network import Network, pixels


class Alexnet(MLModel):
    async def load(self) -> bool:
        self._network = Network(threads=1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pictures = [pixels(base64.b64decode(picture)) for picture in payload.inputs[0].data.root]
        answers = [json.dumps(answer["predictions"]) for answer in self._network(pictures)]
        output = ResponseOutput(name="predictions", shape=[len(answers)], datatype="BYTES", data=answers)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    server = MLServer(
        Settings(
            host="127.0.0.1",
            http_port=int(os.environ["PORT"]),
            grpc_port=0,
            metrics_endpoint=None,
            parallel_workers=2,
            debug=False,
        )
    )
    await server.start(
        [
            ModelSettings(
                name="alexnet",
                implementation="benchmarks.peers.with_mlserver.Alexnet",
                max_batch_size=16,
                max_batch_time=0.005,
            )
        ]
    )


if __name__ == "__main__":
    asyncio.run(main())
