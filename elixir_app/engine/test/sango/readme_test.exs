defmodule Sango.ReadmeTest do
  @moduledoc "The page that shows how to use this says what is so."
  use Sango.Case, async: false

  @readme File.read!(Path.expand("../../README.md", __DIR__))

  test "the picture is drawn as the page says", context do
    # Under the default name, as on the page.
    start_native(%{context | name: Sango})
    [code] = for [_, code] <- Regex.scan(~r/```elixir\n(.*?)```/s, @readme), code =~ "circle.png", do: code

    File.cd!(context.data, fn ->
      Code.eval_string(code)
      assert <<137, "PNG", _::binary>> = File.read!("circle.png")
    end)
  end

  test "every function that the page names is there" do
    Code.ensure_loaded!(Sango)
    named = Regex.scan(~r"`Sango\.(\w+)/(\d)`", @readme, capture: :all_but_first)
    assert length(named) > 10

    for [name, arity] <- named do
      assert function_exported?(Sango, String.to_atom(name), String.to_integer(arity)),
             "Sango.#{name}/#{arity}"
    end
  end
end
