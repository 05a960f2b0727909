defmodule SangoWeb.MixProject do
  use Mix.Project

  def project do
    [
      app: :web,
      version: "0.1.0",
      description: "Serves Sango's protocol, its studio page and an operations page with Phoenix.",
      elixir: "~> 1.15",
      elixirc_paths: if(Mix.env() == :test, do: ["lib", "test/support"], else: ["lib"]),
      start_permanent: Mix.env() == :prod,
      listeners: [Phoenix.CodeReloader],
      deps: deps(),
      releases: [web: [include_executables_for: [:unix]]]
    ]
  end

  def application do
    [mod: {SangoWeb.Application, []}, extra_applications: [:logger, :runtime_tools]]
  end

  defp deps do
    [
      {:engine, path: "../engine"},
      # 1.8.9 bounds the topics that one socket joins.
      {:phoenix, "~> 1.8 and >= 1.8.9"},
      {:phoenix_html, "~> 4.1"},
      {:phoenix_live_view, "~> 1.1"},
      {:bandit, "~> 1.5"},
      {:jason, "~> 1.2"},
      {:lazy_html, ">= 0.1.0", only: :test}
    ]
  end
end
