#!/usr/bin/python3
"""Independent numpy reference of uniform quantization, for lowbit's tests.

Prints, as JSON, the relative MSE sum((w - what)^2) / sum(w^2) of quantizing
every weight matrix of a safetensors file in every format of FORMATS. Shares no
code with lowbit: agreement means that both implement these definitions, where
x is the weight widened to f32, and every step is one correctly rounded f32
operation (rint: half to even):

  symmetric   s = max|x| / Q with Q = 2^(b-1) - 1; q = clip(rint(x / s), -Q, Q);
              what = s * q
  asymmetric  lo = min(x, 0), hi = max(x, 0), s = (hi - lo) / L, L = 2^b - 1;
              z = clip(rint(-lo / s), 0, L); q = clip(rint(x / s) + z, 0, L);
              what = s * (q - z)
  offset      lo = min(x), hi = max(x), s = (hi - lo) / L;
              q = clip(rint((x - lo) / s), 0, L); what = fma(s, q, lo)

min and max are over a group of consecutive elements of a row, the last group of
a row being shorter if need be. s is rounded to the scale type (half to even) as
soon as it is known, and so is lo of `offset`, after s was computed from it: the
later steps see the rounded values. A group with s = 0 becomes 0 (offset: lo).

Errors are in f64 and their sums are correctly rounded, so that the output is
the same to the last digit everywhere.
"""

import argparse
import itertools
import json
import math
import os
import struct
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
EXTRACT = os.path.normpath(os.path.join(
    HERE, '..', '..', 'examples', 'data',
    'whisper_base_en_extract.safetensors'))
GOLDEN = os.path.join(HERE, 'uniform_extract.json')

BITS = (2, 3, 4, 8)
GROUP_SIZES = (32, 64, 128)
SCALE_TYPES = {'fp32': np.float32, 'fp16': np.float16}


def read_weights(path):
  """Yields (name, f32 matrix) of the F16 and F32 tensors named *.weight."""
  with open(path, 'rb') as f:
    data = f.read()
  size, = struct.unpack_from('<Q', data)
  header = json.loads(data[8:8 + size])
  header.pop('__metadata__', None)
  for name, info in sorted(header.items()):
    if name.endswith('.weight') and len(info['shape']) == 2:
      begin, end = (8 + size + offset for offset in info['data_offsets'])
      dtype = {'F16': '<f2', 'F32': '<f4'}[info['dtype']]
      yield name, np.frombuffer(data[begin:end], dtype).astype(
          np.float32).reshape(info['shape'])


def divide(x, s):
  """x / s, and 0 where s is 0."""
  return np.divide(x, s, out=np.zeros_like(x), where=s != 0)


def symmetric(x, bits, stored):
  top = np.float32(2 ** (bits - 1) - 1)
  s = stored(np.abs(x).max(1, keepdims=True) / top)
  return s * np.clip(np.rint(divide(x, s)), -top, top)


def asymmetric(x, bits, stored):
  top = np.float32(2 ** bits - 1)
  lo = np.minimum(x.min(1, keepdims=True), np.float32(0))
  hi = np.maximum(x.max(1, keepdims=True), np.float32(0))
  s = stored((hi - lo) / top)
  z = np.clip(np.rint(divide(-lo, s)), 0, top)
  q = np.clip(np.rint(divide(x, s)) + z, 0, top)
  return s * (q - z)


def offset(x, bits, stored):
  top = np.float32(2 ** bits - 1)
  lo = x.min(1, keepdims=True)
  s = stored((x.max(1, keepdims=True) - lo) / top)
  lo = stored(lo)
  q = np.clip(np.rint(divide(x - lo, s)), 0, top)
  # A fused multiply-add: s * q is exact in f64, and so is the sum unless lo and
  # s are more than 20 binary orders of magnitude apart.
  return (s.astype(np.float64) * q + lo).astype(np.float32)


MODES = {'symmetric': symmetric, 'asymmetric': asymmetric, 'offset': offset}
FORMATS = list(itertools.product(BITS, MODES, GROUP_SIZES, SCALE_TYPES))


def relative_mse(w, bits, mode, group_size, scale_type):
  """The relative MSE of one matrix in one format."""
  def stored(value):
    return value.astype(SCALE_TYPES[scale_type]).astype(np.float32)
  error = np.empty(w.shape, np.float64)
  for begin in range(0, w.shape[1], group_size):
    group = np.s_[:, begin:begin + group_size]
    what = MODES[mode](w[group], bits, stored)
    assert what.dtype == np.float32
    error[group] = w[group].astype(np.float64) - what
  total = math.fsum((w.astype(np.float64) ** 2).ravel().tolist())
  return math.fsum((error ** 2).ravel().tolist()) / total


def report(path):
  """The JSON text for the weights of a file, one format a line."""
  lines = []
  for name, w in read_weights(path):
    for bits, mode, group_size, scale_type in FORMATS:
      lines.append(json.dumps({
          'tensor': name, 'bits': bits, 'mode': mode, 'group_size': group_size,
          'scale_type': scale_type, 'relative_mse': relative_mse(
              w, bits, mode, group_size, scale_type)}))
  return '[\n' + ',\n'.join(lines) + '\n]\n'


def main():
  parser = argparse.ArgumentParser(
      description='Prints the relative MSE of uniform quantization as JSON.')
  parser.add_argument('file', nargs='?', default=EXTRACT,
                      help='a safetensors file (default: the extract of '
                      'Whisper under examples/data)')
  action = parser.add_mutually_exclusive_group()
  action.add_argument('--write', action='store_true',
                      help='also write it to uniform_extract.json beside this '
                      'program')
  action.add_argument('--check', action='store_true',
                      help='print nothing, and fail unless it is what '
                      'uniform_extract.json says')
  args = parser.parse_args()

  text = report(args.file)
  if args.check:
    with open(GOLDEN) as f:
      golden = json.load(f)
    actual = json.loads(text)
    wrong = [(a, g) for a, g in itertools.zip_longest(actual, golden) if a != g]
    for a, g in wrong[:10]:
      print('computed %s\ngolden   %s' % (a, g), file=sys.stderr)
    if wrong:
      sys.exit('uniform_numpy: %d of %d values differ from %s' % (
          len(wrong), len(golden), os.path.basename(GOLDEN)))
    return
  if args.write:
    with open(GOLDEN, 'w') as f:
      f.write(text)
  sys.stdout.write(text)


if __name__ == '__main__':
  main()
