"""Programs that tests run in processes of their own, to see how they end."""

PARTS = """
import atexit, logging, os, sys, time
logging.basicConfig(stream=sys.stderr, format="LOG %(message)s")
from clew.delivery import LogBatchProcessor, PeriodicReader, SpanBatchProcessor, deliver, lost
from clew.exporters import log_exporters, metric_exporters, span_exporters
from clew.settings import load_settings
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

settings = load_settings(os.environ)
reader = PeriodicReader(metric_exporters(settings)[0], interval=settings.metric_export_interval)
meters = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
counter = meters.get_meter("program").create_counter("orders")
spans = SpanBatchProcessor(span_exporters(settings)[0])
tracers = TracerProvider(shutdown_on_exit=False)
tracers.add_span_processor(spans)
logs = LogBatchProcessor(log_exporters(settings)[0])
loggers = LoggerProvider(shutdown_on_exit=False)
loggers.add_log_record_processor(logs)
parts = [reader, spans, logs]

def record(name="work"):
    counter.add(1)
    reader.start()
    with tracers.get_tracer("program").start_as_current_span(name):
        pass
    loggers.get_logger("program").emit(LogRecord(body=name))

def end():
    started = time.monotonic()
    delivered = deliver(parts, closing=True, timeout=settings.shutdown_timeout)
    print("ENDED", delivered, f"{time.monotonic() - started:.3f}", flush=True)
"""

FORKED_DURING_AN_EXPORT = f"""{PARTS}
import threading
record("parent's")
deliver(parts, closing=False, timeout=120)  # all is imported: a fork amid an import leaves the child half a module
record("parent's")
threading.Thread(target=lambda: deliver(parts, closing=False, timeout=120), daemon=True).start()
time.sleep(0.3)
child = os.fork()
if child == 0:
    for part in parts:
        part.restart_in_child()
    record("child's")
    end()
    sys.exit(0)
_, status = os.waitpid(child, 0)
end()
print("CHILD", status, flush=True)
"""

ONE_REQUEST = f"""{PARTS}
atexit.register(end)
record()
"""

NO_THREAD_YET = f"""{PARTS}
def last():
    # what is first measured while the interpreter ends finds no thread, and from Python 3.12 on cannot start one
    record("at the end")
    end()
atexit.register(last)
"""

UNDER_WAY = f"""{PARTS}
atexit.register(end)
record()
import threading
threading.Thread(target=lambda: deliver(parts, closing=False, timeout=120), daemon=True).start()
time.sleep(0.5)
"""

FORKED = f"""{PARTS}
record("before")
print("PARENT", deliver(parts, closing=False, timeout=60), flush=True)
record("inherited")
child = os.fork()
if child == 0:
    for part in parts:
        part.restart_in_child()
    record("in the child")
    end()
    sys.stdout.flush()
    os._exit(0)
_, status = os.waitpid(child, 0)
record("after")
end()
print("CHILD", status, flush=True)
"""
