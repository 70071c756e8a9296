"""A speech-to-text server for the local stack: OpenAI's transcription API with faster-whisper.

It is as strict as the hosted services, so that the worker meets the same protocol everywhere. Its queue is small; when
the queue is full, it answers 429 with Retry-After, as a loaded service does.

    POST /v1/audio/transcriptions   GET /v1/models
    POST /v1/audio/translations     GET /health (200 once the model is loaded)
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from asr_engine import Abandoned, Engine, QueueFull, TooLong, Transcript, Undecodable, Wanted

MAX_FILE_BYTES = 25 * 1024 * 1024
# With the other fields of the form.
MAX_BODY_BYTES = MAX_FILE_BYTES + 256 * 1024
FORMATS = ["json", "text", "srt", "verbose_json", "vtt"]


class ApiError(Exception):
    """An error in OpenAI's format."""

    def __init__(self, status: int, message: str, param=None, code=None, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def response(self) -> JSONResponse:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        body = {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse(body, self.status, headers)


def stamp(seconds: float, comma: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"


def captions(transcript: Transcript, comma: str, numbered: bool) -> str:
    return "".join(
        f"{number}\n" * numbered + f"{stamp(s.start, comma)} --> {stamp(s.end, comma)}\n{s.text.strip()}\n\n"
        for number, s in enumerate(transcript.segments, start=1)
    )


def verbose(transcript: Transcript, wanted: Wanted) -> dict:
    body = {
        "task": wanted.task,
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
    }
    if wanted.words:
        body["words"] = [
            {
                "word": word.word.strip(),
                "start": round(float(word.start), 3),
                "end": round(float(word.end), 3),
                "probability": round(float(word.probability), 3),
            }
            for segment in transcript.segments
            for word in segment.words or []
        ]
    if wanted.segments:
        names = ("seek", "text", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob")
        body["segments"] = [
            {
                "id": number,
                "start": round(float(segment.start), 3),
                "end": round(float(segment.end), 3),
                "tokens": list(segment.tokens),
                **{name: getattr(segment, name) for name in names},
            }
            for number, segment in enumerate(transcript.segments)
        ]
    return body


def answer(transcript: Transcript, wanted: Wanted) -> Response:
    match wanted.response_format:
        case "json":
            return JSONResponse({"text": transcript.text})
        case "verbose_json":
            return JSONResponse(verbose(transcript, wanted))
        case "text":
            return PlainTextResponse(transcript.text + "\n")
        case "srt":
            return Response(captions(transcript, ",", True), media_type="application/x-subrip")
        case _:
            return Response("WEBVTT\n\n" + captions(transcript, ".", False), media_type="text/vtt")


async def read_form(request: Request) -> FormData:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "The request has to be multipart/form-data.")
    too_large = False

    async def body():
        nonlocal too_large
        size = 0
        async for block in request.stream():
            size += len(block)
            # The rest is read and dropped, since a client whose upload is cut off does not read the 413.
            too_large = size > MAX_BODY_BYTES
            if size > 8 * MAX_BODY_BYTES:
                break
            if not too_large:
                yield block

    try:
        form = await MultiPartParser(request.headers, body()).parse()
    except MultiPartException as error:
        if not too_large:
            raise ApiError(400, f"The form cannot be read: {error.message}") from error
    if too_large:
        raise ApiError(413, f"The file is larger than {MAX_FILE_BYTES} bytes.", "file", "file_too_large")
    return form


def require(holds: object, message: str, param: str, code: str = "invalid_value", status: int = 400) -> None:
    if not holds:
        raise ApiError(status, message, param, code)


def parse_form(form: FormData, task: str, model: str, languages: list[str]) -> tuple[UploadFile, Wanted]:
    def text(name: str) -> str | None:
        value = form.get(name)
        require(not isinstance(value, UploadFile), f"'{name}' has to be a text field, not a file.", name, None)
        return value or None

    upload, missing = form.get("file"), "missing_required_parameter"
    require(isinstance(upload, UploadFile), "'file' is missing, or is not sent as a file.", "file", missing)
    too_large = f"The file is larger than {MAX_FILE_BYTES} bytes."
    require(upload.size <= MAX_FILE_BYTES, too_large, "file", "file_too_large", 413)
    require(upload.size > 0, "The file is empty.", "file")
    name = text("model")
    require(name is not None, "'model' is missing.", "model", missing)
    require(name == model, f"The model '{name}' does not exist; there is '{model}'.", "model", "model_not_found", 404)
    response_format = text("response_format") or "json"
    require(response_format in FORMATS, f"response_format is one of {', '.join(FORMATS)}.", "response_format")
    language = text("language")
    unknown = f"'{language}' is not an ISO-639-1 code that the model supports."
    require(language is None or language in languages, unknown, "language", "invalid_language_format")
    try:
        temperature = float(text("temperature") or 0)
    except ValueError:
        temperature = -1
    require(0 <= temperature <= 1, "temperature is a number from 0 to 1.", "temperature")
    granularities = form.getlist("timestamp_granularities[]") or ["segment"]
    known = set(granularities) <= {"word", "segment"}
    require(known, "timestamp_granularities[] is word or segment.", "timestamp_granularities")
    verbose_json = response_format == "verbose_json"
    return upload, Wanted(
        response_format=response_format,
        language=language,
        prompt=text("prompt"),
        temperature=temperature,
        words=verbose_json and "word" in granularities,
        segments=verbose_json and "segment" in granularities,
        task=task,
    )


async def hang_up(request: Request) -> None:
    """Ends when the client disconnects. The body has been read, so nothing else can arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def application(engine: Engine, model: str) -> Starlette:
    async def transcriptions(request: Request) -> Response:
        if engine.model is None:
            raise ApiError(503, "The model is still being loaded.", retry_after=1)
        form = await read_form(request)
        gone = asyncio.ensure_future(hang_up(request))
        try:
            task = "translate" if request.url.path.endswith("translations") else "transcribe"
            upload, wanted = parse_form(form, task, model, engine.model.supported_languages)
            return answer(await engine.transcribe(upload.file, wanted, gone), wanted)
        except QueueFull as full:
            message = "The queue is full."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=full.args[0]) from None
        except Undecodable as error:
            message = f"The audio is corrupted, or of a format that is not supported ({error})."
            raise ApiError(400, message, "file", "invalid_value") from error
        except TooLong as error:
            message = f"The audio is longer than {error.args[0]:g} s."
            raise ApiError(400, message, "file", "audio_too_long") from None
        except Abandoned:
            raise ApiError(503, "The server is stopping.", retry_after=1) from None
        finally:
            gone.cancel()
            await form.close()

    async def models(_request: Request) -> Response:
        entry = {"id": model, "object": "model", "created": 0, "owned_by": "local"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(_request: Request) -> Response:
        if engine.model is None:
            return JSONResponse({"status": "loading"}, 503)
        return JSONResponse({"status": "ok", "model": model, "inHand": engine.in_hand, "capacity": engine.capacity})

    return Starlette(
        routes=[
            Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
            Route("/v1/audio/translations", transcriptions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        exception_handlers={
            ApiError: lambda _, error: error.response(),
            HTTPException: lambda _, error: ApiError(error.status_code, error.detail).response(),
            ClientDisconnect: lambda *_: Response(status_code=499),  # nobody reads it
            Exception: lambda *_: ApiError(500, "The server had an error while processing the request.").response(),
        },
    )


async def run(engine: Engine, listen: str, model: str) -> None:
    config = Config()
    config.bind = [listen]
    config.graceful_timeout = 3
    config.accesslog = "-"
    config.access_log_format = "%(m)s %(U)s %(s)s %(L)ss"
    config.errorlog = "-"
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def trigger() -> None:
        await stop.wait()
        engine.stopping.set()

    async def load() -> None:
        begun = time.monotonic()
        try:
            await asyncio.to_thread(engine.load)
        except Exception as error:
            print(f"The model {engine.name} cannot be loaded: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        print(f"Model loaded in {time.monotonic() - begun:.1f} s", flush=True)

    loading = asyncio.ensure_future(load())
    await serve(application(engine, model), config, shutdown_trigger=trigger)
    loading.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = os.cpu_count() or 1
    parser.add_argument("--listen", default="127.0.0.1:8790", help="HOST:PORT (%(default)s)")
    parser.add_argument("--model", required=True, help="the model's directory, or its name on the model hub")
    parser.add_argument("--name", default="whisper-base", help="the name that clients use (%(default)s)")
    parser.add_argument("--workers", type=int, default=min(cores, 4), help="concurrent calls (%(default)s)")
    parser.add_argument("--queue", type=int, default=8, help="calls that may wait; others get 429 (%(default)s)")
    parser.add_argument("--longest", type=float, default=330, help="seconds of audio; longer gets 400 (%(default)s)")
    arguments = parser.parse_args()
    if os.path.isdir(arguments.model):
        os.environ["HF_HUB_OFFLINE"] = "1"
    engine = Engine(arguments.model, arguments.workers, arguments.queue, arguments.longest)
    asyncio.run(run(engine, arguments.listen, arguments.name))
    # A return would wait for the threads, and a step of the model cannot be interrupted.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
