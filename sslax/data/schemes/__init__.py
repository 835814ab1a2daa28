"""One module a scheme: `x.py` is what `open_source('x:REST?OPTION=VALUE@SPLIT')` opens. A file more is a scheme more.

A module states

  FORM    one line for error messages: how its URIs look, and (what they name)
  SUFFIX  of the files that it is for, '.tar'; '' if there is none
  open_container(rest, split, *, option='')
          a `sslax.data.sources.Container` of REST; `split` is '' where the URI names none; each keyword is an option, which
          comes as the text that stands in the URI

and imports at its top nothing that is heavy or may be missing: an error message imports all of them.
"""
