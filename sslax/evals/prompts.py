"""What is said of a class in zero-shot classification: templates, and class names from a file."""

import pathlib

from sslax.errors import UserError

PLAIN = ('{}',)
PHOTO = ('a photo of a {}.',)
DIGITS = ('a handwritten {}', 'the digit {}', 'a picture of the number {}')
FASHION = ('{}', 'women {}', 'men {}')  # as product titles have it

# openai/CLIP, data/prompts.md: CIFAR-10 and CIFAR-100 have the same 18.
_CIFAR = (
  'photo',
  'blurry photo',
  'black and white photo',
  'low contrast photo',
  'high contrast photo',
  'bad photo',
  'good photo',
)
CIFAR = tuple(f'a {kind} of {article} {{}}.' for article in ('a', 'the') for kind in _CIFAR)
CIFAR += tuple(f'a photo of {article} {size} {{}}.' for article in ('a', 'the') for size in ('small', 'big'))

# openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb, in its order.
IMAGENET = (
  'a bad photo of a {}.',
  'a photo of many {}.',
  'a sculpture of a {}.',
  'a photo of the hard to see {}.',
  'a low resolution photo of the {}.',
  'a rendering of a {}.',
  'graffiti of a {}.',
  'a bad photo of the {}.',
  'a cropped photo of the {}.',
  'a tattoo of a {}.',
  'the embroidered {}.',
  'a photo of a hard to see {}.',
  'a bright photo of a {}.',
  'a photo of a clean {}.',
  'a photo of a dirty {}.',
  'a dark photo of the {}.',
  'a drawing of a {}.',
  'a photo of my {}.',
  'the plastic {}.',
  'a photo of the cool {}.',
  'a close-up photo of a {}.',
  'a black and white photo of the {}.',
  'a painting of the {}.',
  'a painting of a {}.',
  'a pixelated photo of the {}.',
  'a sculpture of the {}.',
  'a bright photo of the {}.',
  'a cropped photo of a {}.',
  'a plastic {}.',
  'a photo of the dirty {}.',
  'a jpeg corrupted photo of a {}.',
  'a blurry photo of the {}.',
  'a photo of the {}.',
  'a good photo of the {}.',
  'a rendering of the {}.',
  'a {} in a video game.',
  'a photo of one {}.',
  'a doodle of a {}.',
  'a close-up photo of the {}.',
  'a photo of a {}.',
  'the origami {}.',
  'the {} in a video game.',
  'a sketch of a {}.',
  'a doodle of the {}.',
  'a origami {}.',
  'a low resolution photo of a {}.',
  'the toy {}.',
  'a rendition of the {}.',
  'a photo of the clean {}.',
  'a photo of a large {}.',
  'a rendition of a {}.',
  'a photo of a nice {}.',
  'a photo of a weird {}.',
  'a blurry photo of a {}.',
  'a cartoon {}.',
  'art of a {}.',
  'a sketch of the {}.',
  'a embroidered {}.',
  'a pixelated photo of a {}.',
  'itap of the {}.',
  'a jpeg corrupted photo of the {}.',
  'a good photo of a {}.',
  'a plushie {}.',
  'a photo of the nice {}.',
  'a photo of the small {}.',
  'a photo of the weird {}.',
  'the cartoon {}.',
  'art of the {}.',
  'a drawing of the {}.',
  'a photo of the large {}.',
  'a black and white photo of a {}.',
  'the plushie {}.',
  'a dark photo of a {}.',
  'itap of a {}.',
  'graffiti of the {}.',
  'a toy {}.',
  'itap of my {}.',
  'a photo of a cool {}.',
  'a photo of a small {}.',
  'a tattoo of the {}.',
)

TEMPLATES = {'plain': PLAIN, 'photo': PHOTO, 'digits': DIGITS, 'fashion': FASHION, 'cifar': CIFAR, 'imagenet': IMAGENET}


def class_names(path: str | pathlib.Path, num_classes: int) -> tuple[str, ...]:
  """The class names in a text file, one a line, in the order of the labels.

  Args:
    path: UTF-8; blank lines and spaces around names are left out.
    num_classes: how many there must be.

  Raises:
    UserError: no such file, not UTF-8, or another number of names.
  """
  try:
    lines = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f'{path}: cannot be read as text ({error}); it should have one class name a line') from error
  names = tuple(line.strip() for line in lines if line.strip())
  if len(names) != num_classes:
    raise UserError(f'{path}: {len(names)} class names for {num_classes} classes; write one a line, in the order of the labels')
  return names
