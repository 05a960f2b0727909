defmodule SangoWeb.DocsTest do
  use ExUnit.Case, async: true

  doctest SangoWeb.OpsFormat
  doctest SangoWeb.Range

  test "docs/phoenix.md names every environment variable" do
    text = File.read!(Path.expand("../../../../docs/phoenix.md", __DIR__))
    {:docs_v1, _, _, _, %{"en" => documented}, _, _} = Code.fetch_docs(SangoWeb.Environment)

    for [_, name] <- Regex.scan(~r/^\| `([A-Z_]+)`/m, documented) do
      assert text =~ "`#{name}`", "#{name} is missing"
    end
  end
end
