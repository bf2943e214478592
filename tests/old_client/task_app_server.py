"""Our task app and a fake OpenAI-compatible model, both on free loopback ports; prints one JSON line and serves.

Run by run.py with the project's own interpreter; ends when its stdin does.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from serve.call_batcher import Answer
from serve.task_host import TaskHost
from serve.task_http import create_app
from synth_ray.core.origins import InferenceOrigins
from synth_ray.core.secrets import KeyRing
from synth_ray.core.types import GenerateRequest

MODEL = FastAPI()


@MODEL.post("/v1/chat/completions")
async def chat(request: Request) -> dict[str, Any]:
    """Calls the first tool it is offered."""
    body = await request.json()
    name = body["tools"][0]["function"]["name"]
    arguments = json.dumps({"actions": ["move_right", "do"]})
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    message = {"role": "assistant", "content": "I go right.", "tool_calls": [call]}
    return {
        "id": "c1",
        "object": "chat.completion",
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40},
    }


async def no_engine(requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
    """There is none."""
    raise AssertionError("the old client asks for remote models and teachers only")


async def main() -> None:
    model_socket, app_socket, smoke_socket = socket.socket(), socket.socket(), socket.socket()
    for one in (model_socket, app_socket, smoke_socket):
        one.bind(("127.0.0.1", 0))
    model_url = f"http://127.0.0.1:{model_socket.getsockname()[1]}"
    smoke_port = smoke_socket.getsockname()[1]
    smoke_socket.close()  # The smoke verb's own mock model listens there.
    origins = InferenceOrigins(listed=[model_url, f"http://127.0.0.1:{smoke_port}"])
    keys = KeyRing([os.environ["ENVIRONMENT_API_KEY"]])
    app = create_app(TaskHost("grpo-crafter", no_engine, origins), keys)
    servers = [uvicorn.Server(uvicorn.Config(served, log_level="warning", lifespan="off")) for served in (MODEL, app)]
    url = f"http://127.0.0.1:{app_socket.getsockname()[1]}"
    running = [
        asyncio.create_task(server.serve(sockets=[one]))
        for server, one in zip(servers, (model_socket, app_socket), strict=True)
    ]
    while not all(server.started for server in servers):
        await asyncio.sleep(0.05)
    print(json.dumps({"url": url, "model_url": model_url, "smoke_port": smoke_port}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*running)


if __name__ == "__main__":
    asyncio.run(main())
