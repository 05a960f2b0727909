defmodule Sango.ErrorTest do
  use ExUnit.Case, async: true

  doctest Sango.Error
  doctest Sango.Config
end
