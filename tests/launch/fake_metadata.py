"""What jax asks a host of a TPU pod in order to find the others: Google's metadata server, and the chips on its PCI bus."""

import http.server
import pathlib
import threading

ATTRIBUTES = '/computeMetadata/v1/instance/attributes/'

# Imported by each Python at its start. jax counts chips by their vendor, before anything else can tell it that there are some.
CHIPS = """import glob

chips, real = ['FOLDER/0000:00:05.0/vendor'], glob.glob
glob.glob = lambda pattern, **more: chips if pattern.startswith('/sys/bus/pci/') else real(pattern, **more)
"""


class Metadata:
  """The metadata server of one host.

  Args:
    addresses: of the hosts of its slice, in the order of their numbers.
    number: of this host in its slice.
    slice: (its number, how many there are, the address of the first host of all).
    old: the hosts as name:id:address, which was the only format once.
  """

  def __init__(self, addresses, number, slice=(0, 1, ''), old=True):
    name = {True: 'unknown:unknown:{}', False: '{}'}[old]
    tpu = {'ACCELERATOR_TYPE': 'v5litepod-16', 'WORKER_ID': number}
    if slice[1] > 1:
      tpu |= {'MEGASCALE_COORDINATOR_ADDRESS': slice[2], 'MEGASCALE_NUM_SLICES': slice[1], 'MEGASCALE_SLICE_ID': slice[0]}
    self.attributes = {
      'accelerator-type': 'v5litepod-16',
      'agent-worker-number': str(number),
      'tpu-env': ''.join(f"{key}: '{value}'\n" for key, value in tpu.items()),
      'worker-network-endpoints': ','.join(name.format(address) for address in addresses),
    }
    attributes, self.asked = self.attributes, []
    asked = self.asked

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        asked.append(self.path.removeprefix(ATTRIBUTES))
        known = attributes.get(self.path.removeprefix(ATTRIBUTES))
        code = 403 if self.headers['Metadata-Flavor'] != 'Google' else 200 if known else 404
        self.send_response(code)
        self.end_headers()
        self.wfile.write((known if code == 200 else 'no').encode())

      def log_message(self, *_):
        pass

    self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()

  def environment(self, folder: pathlib.Path, port: int) -> dict[str, str]:
    """The variables of a process that is to take itself for one on this host.

    Args:
      folder: for the files that pretend to be a chip.
      port: of the coordinator: jax takes 8482, but here are others' pods, too.
    """
    chip = folder / '0000:00:05.0'
    chip.mkdir(parents=True, exist_ok=True)
    (chip / 'vendor').write_text('0x1ae0')
    (chip / 'device').write_text('0x0063')
    (folder / 'sitecustomize.py').write_text(CHIPS.replace('FOLDER', str(folder)))
    return {
      'GCE_METADATA_IP': f'127.0.0.1:{self.server.server_port}',
      'JAX_COORDINATOR_PORT': str(port),
      'JAX_FORCE_TPU_INIT': '1',  # there is no libtpu
      'PYTHONPATH': str(folder),
    }

  def close(self):
    self.server.shutdown()
    self.server.server_close()
